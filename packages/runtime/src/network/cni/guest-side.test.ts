import type { CniResult } from "@ts-vmm/cni"
import { describe, expect, test } from "vitest"
import { guestSide } from "./guest-side.js"

const BRIDGE: CniResult = {
  cniVersion: "1.0.0",
  interfaces: [
    { name: "cni0", mac: "02:00:00:00:00:01", sandbox: undefined },
    { name: "eth0", mac: "02:00:00:00:00:02", sandbox: "/run/netns/x" },
  ],
  ips: [
    { family: 4, address: "10.1.0.5", prefixLength: 24, gateway: "10.1.0.1", interface: 1 },
    { family: 6, address: "fd00::5", prefixLength: 64, gateway: "fd00::1", interface: 1 },
  ],
  routes: [
    { destination: { family: 4, address: "0.0.0.0", prefixLength: 0 }, gateway: undefined },
    { destination: { family: 6, address: "::", prefixLength: 0 }, gateway: "fe80::1" },
  ],
  dns: {
    nameservers: ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"],
    domain: undefined,
    search: [],
    options: [],
  },
}

describe("the guest's side of a result", () => {
  test("has its addresses, the way out, and as many name servers as there is room for", () => {
    expect(guestSide(BRIDGE, "eth0", 1400)).toEqual({
      addresses: [
        { family: 4, address: "10.1.0.5", prefixLength: 24 },
        { family: 6, address: "fd00::5", prefixLength: 64 },
      ],
      gateways: [
        { family: 4, address: "10.1.0.1" },
        { family: 6, address: "fe80::1" },
      ],
      routes: [],
      nameServers: ["10.1.0.1", "10.1.0.2", "10.1.0.3"],
      mtu: 1400,
    })
  })

  test("has routes by their router, by the address's, or by the wire", () => {
    const ips = [BRIDGE.ips[0] as CniResult["ips"][0]]
    const routes = [
      { destination: { family: 4 as const, address: "192.0.2.0", prefixLength: 24 }, gateway: "10.1.0.9" },
      { destination: { family: 4 as const, address: "198.51.100.0", prefixLength: 24 }, gateway: undefined },
      { destination: { family: 6 as const, address: "2001:db8::", prefixLength: 32 }, gateway: undefined },
    ]
    expect(guestSide({ ...BRIDGE, ips, routes }, "eth0", 1500)).toMatchObject({
      gateways: [],
      routes: [
        { address: "192.0.2.0", prefixLength: 24, gateway: "10.1.0.9" },
        { address: "198.51.100.0", prefixLength: 24, gateway: "10.1.0.1" },
        { family: 6, address: "2001:db8::", prefixLength: 32 },
      ],
    })
  })

  test("reaches a router outside of its network, which is on the wire", () => {
    const ips = [
      { family: 4 as const, address: "10.1.0.5", prefixLength: 32, gateway: "172.16.0.1", interface: 1 },
      { family: 6 as const, address: "fd00::5", prefixLength: 128, gateway: "fd01::1", interface: 1 },
    ]
    const routes = [
      { destination: { family: 4 as const, address: "0.0.0.0", prefixLength: 0 }, gateway: undefined },
      { destination: { family: 6 as const, address: "::", prefixLength: 0 }, gateway: undefined },
    ]
    expect(guestSide({ ...BRIDGE, ips, routes }, "eth0", 1500).routes).toEqual([
      { family: 4, address: "172.16.0.1", prefixLength: 32 },
      { family: 6, address: "fd01::1", prefixLength: 128 },
    ])
  })

  test("has nothing of the host's interfaces, nor of others of the container", () => {
    const ips = [0, 1].map(index => ({ ...(BRIDGE.ips[0] as CniResult["ips"][0]), interface: index }))
    expect(guestSide({ ...BRIDGE, ips }, "eth0", 1500).addresses).toHaveLength(1)
    expect(guestSide({ ...BRIDGE, ips }, "net1", 1500).addresses).toEqual([])
  })

  test("is refused with two IPv4 addresses, of which the guest would lose one", () => {
    const ips = [...BRIDGE.ips, { ...(BRIDGE.ips[0] as CniResult["ips"][0]), address: "10.1.0.6" }]
    expect(() => guestSide({ ...BRIDGE, ips }, "eth0", 1500)).toThrow(
      expect.objectContaining({ code: "network-failed" }),
    )
  })
})
