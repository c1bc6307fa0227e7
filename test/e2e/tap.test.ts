// Sandboxes on tap devices, and on passt with IPv6, in a network namespace that the test makes: the command line, the
// servers that it talks to and the interfaces are all in there.
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { CLI, collect, Workplace } from "./cli.js"
import { HYPERVISOR, PATIENCE_MS, RUN_OPTIONS } from "./under-test.js"

const NAMESPACE = `tsvmm-e2e-${process.pid}`
const PORT = 8080
const MIB = 2 ** 20
const BIG = 32 * MIB

/** Answers with who asked, or many bytes; and as many bytes on a plain connection with their digest. On every address. */
const SERVER = `
const { createHash } = require("node:crypto")
const big = Buffer.alloc(${BIG}, "0123456789abcdef")
require("node:http").createServer((request, response) => {
  response.end(request.url === "/big" ? big : "hello " + request.socket.remoteAddress + "\\n")
}).listen(${PORT}, "::")
require("node:net").createServer(socket => {
  const hash = createHash("sha256")
  let left = ${BIG}
  socket.on("error", () => undefined).on("data", chunk => {
    hash.update(chunk)
    left -= chunk.length
    if (left === 0) socket.end(hash.digest("hex"))
  })
}).listen(${PORT + 1}, "::", () => console.log("ready"))
`

function reasonToSkip(): string | undefined {
  if (process.getuid?.() !== 0) return "making interfaces needs root"
  if (!existsSync("/dev/net/tun")) return "there is no /dev/net/tun"
  return existsSync("/usr/sbin/ip") || existsSync("/sbin/ip") ? undefined : "ip is not installed"
}
const skipped = reasonToSkip()

const ip = (...args: string[]) => execFileSync("ip", args, { stdio: "pipe" })
const inNamespace = (line: string) => ip("-n", NAMESPACE, ...line.split(" "))
let server: ChildProcess | undefined
let place: Workplace

function start(args: readonly string[]) {
  const given = [CLI, "run", ...RUN_OPTIONS, "--rm", ...args]
  return spawn("ip", ["netns", "exec", NAMESPACE, process.execPath, ...given], {
    env: { ...process.env, ...place.env },
    stdio: "pipe",
  })
}

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
  ip("netns", "add", NAMESPACE)
  for (const line of [
    "link set lo up",
    "tuntap add tap0 mode tap",
    "addr add 10.9.0.1/24 dev tap0",
    "addr add fd09::1/64 dev tap0 nodad",
    "link set tap0 up",
    // The way out of this namespace, as passt sees it.
    "link add out0 type veth peer name out1",
    "addr add 10.8.0.1/24 dev out0",
    "addr add 2001:db8:8::1/64 dev out0 nodad",
    "link set out0 up",
    "link set out1 up",
    "route add default via 10.8.0.2 dev out0",
    "-6 route add default via 2001:db8:8::2 dev out0",
  ])
    inNamespace(line)
  server = spawn("ip", ["netns", "exec", NAMESPACE, process.execPath, "-e", SERVER], { stdio: "pipe" })
  await new Promise(resolve => server?.stdout?.once("data", resolve))
}, PATIENCE_MS)

afterAll(() => {
  if (skipped) return
  server?.kill("SIGKILL")
  ip("netns", "del", NAMESPACE)
  place.remove()
})

describe.skipIf(skipped !== undefined)(`a tap device${skipped ? ` (skipped: ${skipped})` : ""}`, () => {
  test("connects the guest, by IPv4 and IPv6, as the options say", async () => {
    const script = [
      "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu /etc/resolv.conf",
      "ip route; ip -6 route",
      `wget -q -O - http://10.9.0.1:${PORT}/ && wget -q -O - http://[fd09::1]:${PORT}/`,
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

  test("carries 32 MiB either way, bytes equal", async () => {
    const script = [
      `wget -q -O /big http://10.9.0.1:${PORT}/big; sha256sum < /big`,
      `nc fd09::1 ${PORT + 1} < /big`,
    ].join("; ")
    const ended = await run(...TAP, image(), "sh", "-c", script)
    const { createHash } = await import("node:crypto")
    const digest = createHash("sha256").update(Buffer.alloc(BIG, "0123456789abcdef")).digest("hex")
    expect(ended.stderr).toBe("")
    expect(ended.stdout).toBe(`${digest}  -\n${digest}`)
  })

  test("N8: that is deleted takes the guest's link, and nothing else", async () => {
    inNamespace("tuntap add tap8 mode tap")
    inNamespace("link set tap8 up")
    const script =
      "while [ $(cat /sys/class/net/eth0/carrier) != 1 ]; do sleep 0.1; done; echo up;" +
      "while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done; echo down"
    const child = start(["--network", "tap:tap8", "--ip", "10.10.0.2/24", image(), "sh", "-c", script])
    child.stdin.end()
    child.stdout.once("data", () => inNamespace("link del tap8"))
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

describe.skipIf(skipped !== undefined || HYPERVISOR === "kvm")("passt on a host with IPv6", () => {
  test("gives the guest a way out by IPv6 beside IPv4", async () => {
    const script = `wget -q -O - http://[2001:db8:8::1]:${PORT}/ && wget -q -O - http://10.8.0.1:${PORT}/`
    const ended = await run("--network", "passt", image(), "sh", "-c", script)
    expect(ended.stderr).toBe("")
    expect(ended.stdout).toBe("hello 2001:db8:8::1\nhello ::ffff:10.8.0.1\n")
  })
})
