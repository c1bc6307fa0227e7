import { describe, expect, test } from "vitest"
import { addressBytes, parseNetworkAddress } from "./address.js"
import { checkNetwork, checkNetworkOn, type GuestNetworkOptions } from "./options.js"

describe("a tap device", () => {
  test("has what the options say, and defaults for the rest", () => {
    const config = checkNetwork("tap:tap0", [], {
      addresses: ["192.0.2.2/24", "2001:db8::2/64"],
      gateways: ["192.0.2.1", "fe80::1"],
    })
    expect(config).toMatchObject({
      kind: "tap",
      name: "tap0",
      addresses: [
        { family: 4, address: "192.0.2.2", prefixLength: 24 },
        { family: 6, address: "2001:db8::2", prefixLength: 64 },
      ],
      gateways: [
        { family: 4, address: "192.0.2.1" },
        { family: 6, address: "fe80::1" },
      ],
      queuePairs: 1,
      vhost: false,
    })
  })

  test.each<[string, GuestNetworkOptions]>([
    ["no address with a prefix", { addresses: ["192.0.2.2"] }],
    ["no address with a prefix", { addresses: ["192.0.2.2/33"] }],
    ["no address with a prefix", { addresses: ["fe80::1%eth0/64"] }],
    ["at most 8 addresses", { addresses: new Array(9).fill("192.0.2.2/24") }],
    ["is no address", { gateways: ["router"] }],
    ["one gateway for IPv4", { gateways: ["192.0.2.1", "192.0.2.3"] }],
    ["is no address", { nameServers: ["localhost"] }],
    ["at most 3 name servers", { nameServers: new Array(4).fill("192.0.2.1") }],
    ["no MAC address", { macAddress: "03:00:00:00:00:01" }],
    ["an MTU is 1280", { mtu: 576 }],
    ["1 to 16 queue pairs", { queuePairs: 17 }],
    ["vhost has one queue pair", { queuePairs: 2, vhost: true }],
  ])("is refused with %s", (words, options) => {
    expect(() => checkNetwork("tap:tap0", [], options)).toThrow(words)
  })

  test.each(["tap:", "tap:a/b", "tap:a-name-of-17-bytes"] as const)("%s is no name of one", mode => {
    expect(() => checkNetwork(mode, [], undefined)).toThrow("no name of a tap device")
  })
})

test("the host's kernel moves frames of guests on KVM only", () => {
  const config = checkNetwork("tap:tap0", [], { vhost: true })
  expect(config).toMatchObject({ vhost: true })
  checkNetworkOn("kvm", config)
  checkNetworkOn("uml", checkNetwork("tap:tap0", [], {}))
  expect(() => checkNetworkOn("uml", config)).toThrow(
    expect.objectContaining({ code: "invalid-argument", message: expect.stringContaining("kvm") }),
  )
})

test("other networks take no addresses", () => {
  expect(() => checkNetwork("passt", [], { addresses: ["192.0.2.2/24"] })).toThrow("for --network tap:NAME")
  expect(() => checkNetwork("passt", [], { vhost: true })).toThrow("for --network tap:NAME")
  expect(checkNetwork("passt", [], { addresses: [], gateways: [], vhost: false })).toEqual({
    kind: "passt",
    ports: [],
  })
  expect(() => checkNetwork("bridge" as "none", [], undefined)).toThrow(
    "use none, passt, tap:NAME or cni:NAME",
  )
})

test("addresses of IPv6 have their bytes, however they are written", () => {
  const hex = (address: string) => addressBytes(address).toString("hex")
  expect(hex("::")).toBe("0".repeat(32))
  expect(hex("2001:db8::2")).toBe("20010db8000000000000000000000002")
  expect(hex("1:2:3:4:5:6:7:8")).toBe("00010002000300040005000600070008")
  expect(hex("::ffff:192.0.2.1")).toBe("00000000000000000000ffffc0000201")
  expect(parseNetworkAddress("fd00::1/64")?.prefixLength).toBe(64)
})

describe("a network of CNI plugins", () => {
  test("has a name, folders, and ports", () => {
    const options = { cniConfDir: "/conf", cniPluginDirs: ["/a", "/b"] }
    expect(checkNetwork("cni:lan", [{ hostPort: 8080, guestPort: 80 }], {}, options)).toEqual({
      kind: "cni",
      name: "lan",
      ports: [{ hostAddress: "127.0.0.1", hostPort: 8080, guestPort: 80, protocol: "tcp" }],
      ...options,
    })
  })

  test.each(["cni:", "cni:../lan", "cni:a/b", "cni:-x", "cni:a\nb"])("%j has no name", mode => {
    expect(() => checkNetwork(mode as "cni:x", [], undefined)).toThrow("no name of a network")
  })

  test("takes absolute folders, and gives the guest's side itself", () => {
    expect(() => checkNetwork("cni:lan", [], undefined, { cniConfDir: "conf" })).toThrow("no absolute path")
    expect(() => checkNetwork("cni:lan", [], undefined, { cniPluginDirs: ["bin"] })).toThrow(
      "no absolute path",
    )
    expect(() => checkNetwork("cni:lan", [], { mtu: 1400 })).toThrow("are for --network tap:NAME")
  })
})
