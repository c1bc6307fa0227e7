// Sandboxes on tap devices, and on passt with IPv6, in a network namespace that the test makes: the command line, the
// servers that it talks to and the interfaces are all in there.
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { CLI, collect, Workplace } from "./cli.js"
import { ask, BIG, BIG_PATTERN, noTapNetwork, noVhost, PORT, TapNetwork } from "./tap-network.js"
import { HYPERVISOR, RUN_OPTIONS } from "./under-test.js"

const skipped = noTapNetwork()
let network: TapNetwork
let place: Workplace

const start = (args: readonly string[]) =>
  network.spawn(process.execPath, [CLI, "run", ...RUN_OPTIONS, "--rm", ...args], place.env)

async function run(...args: string[]) {
  const child = start(args)
  child.stdin.end()
  const { stdout, stderr, exitCode } = await collect(child)
  return { stdout: stdout.toString(), stderr, exitCode }
}

const image = () => `oci:${busyboxImage()}`
const TAP = ["--network", "tap:tap0", "--ip", "10.9.0.2/24", "--ip6", "fd09::2/64"]

beforeAll(async () => {
  if (skipped) return
  place = new Workplace()
  network = await TapNetwork.open()
})

afterAll(() => {
  if (skipped) return
  network.close()
  place.remove()
})

describe.skipIf(skipped !== undefined)(`a tap device${skipped ? ` (skipped: ${skipped})` : ""}`, () => {
  test("connects the guest, by IPv4 and IPv6, as the options say", async () => {
    const script = [
      "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu /etc/resolv.conf",
      "ip route; ip -6 route",
      `${ask("10.9.0.1")} && ${ask("[fd09::1]")}`,
    ].join("; ")
    const more = ["--gateway", "10.9.0.1", "--gateway", "fd09::1", "--dns", "10.9.0.1", "--mtu", "1400"]
    const mac = "02:00:00:00:00:42"
    const ended = await run(...TAP, ...more, "--mac-address", mac, image(), "sh", "-c", script)
    expect(ended).toMatchObject({ stderr: "", exitCode: 0 })
    const lines = ended.stdout.split("\n")
    expect(lines.slice(0, 3)).toEqual([mac, "1400", "nameserver 10.9.0.1"])
    expect(ended.stdout).toContain("default via 10.9.0.1 dev eth0")
    expect(ended.stdout).toMatch(/default via fd09::1 dev eth0/)
    expect(lines.slice(-3)).toEqual(["hello ::ffff:10.9.0.2", "hello fd09::2", ""])
  })

  test.for([
    { how: "by this process", option: [], missing: undefined },
    { how: "by the host's kernel", option: ["--network-vhost"], missing: noVhost() },
  ])("carries 32 MiB either way, bytes equal, moved $how", async ({ option, missing }, { skip }) => {
    if (missing) skip(missing)
    const script = [
      `wget -q -O /big http://10.9.0.1:${PORT}/big; sha256sum < /big`,
      `nc fd09::1 ${PORT + 1} < /big`,
    ].join("; ")
    const ended = await run(...TAP, ...option, image(), "sh", "-c", script)
    const { createHash } = await import("node:crypto")
    const digest = createHash("sha256").update(Buffer.alloc(BIG, BIG_PATTERN)).digest("hex")
    expect(ended.stderr).toBe("")
    expect(ended.stdout).toBe(`${digest}  -\n${digest}`)
  })

  test.runIf(HYPERVISOR === "uml")("is not for the host's kernel to serve on User Mode Linux", async () => {
    const ended = await run(...TAP, "--network-vhost", image(), "true")
    expect(ended.stderr).toContain("vhost needs the kvm hypervisor")
    expect(ended.exitCode).toBe(125)
  })

  test("N8: that is deleted takes the guest's link, and nothing else", async () => {
    network.ip("tuntap add tap8 mode tap")
    network.ip("link set tap8 up")
    const script =
      "while [ $(cat /sys/class/net/eth0/carrier) != 1 ]; do sleep 0.1; done; echo up;" +
      "while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done; echo down"
    const child = start(["--network", "tap:tap8", "--ip", "10.10.0.2/24", image(), "sh", "-c", script])
    child.stdin.end()
    child.stdout.once("data", () => network.ip("link del tap8"))
    const ended = await collect(child)
    expect([ended.stdout.toString(), ended.exitCode]).toEqual(["up\ndown\n", 0])
  })

  test("that is not there, or not a tap device, is refused with a line", async () => {
    const missing = await run("--network", "tap:tap77", image(), "true")
    expect(missing.stderr).toContain('there is no interface "tap77"')
    const other = await run("--network", "tap:out0", image(), "true")
    expect(other.stderr).toContain("it is no tap device")
    expect([missing.exitCode, other.exitCode]).toEqual([125, 125])
  })

  test("takes no ports, and no address without its prefix", async () => {
    const ports = await run(...TAP, "-p", "80:80", image(), "true")
    expect(ports.stderr).toContain("no published ports")
    const address = await run("--network", "tap:tap0", "--ip", "10.9.0.2", image(), "true")
    expect(address.stderr).toContain("give it with its prefix")
    const passt = await run("--network", "passt", "--ip", "10.9.0.2/24", image(), "true")
    expect(passt.stderr).toContain("are for --network tap:NAME")
  })
})

describe.skipIf(skipped !== undefined)("passt on a host with IPv6", () => {
  test("gives the guest a way out by IPv6 beside IPv4", async () => {
    const script = `${ask("[2001:db8:8::1]")} && ${ask("10.8.0.1")}`
    const ended = await run("--network", "passt", image(), "sh", "-c", script)
    expect(ended.stderr).toBe("")
    expect(ended.stdout).toBe("hello 2001:db8:8::1\nhello ::ffff:10.8.0.1\n")
  })
})
