// Sandboxes on networks of CNI plugins, Debian's own, in a network namespace that the test makes: the command line, the
// bridge, the rules of iptables and the server that guests talk to are all in there.
import { execFileSync } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { CLI, collect, Workplace } from "./cli.js"
import { CniHost, noCniHost } from "./cni-network.js"
import { PATIENCE_MS, RUN_OPTIONS } from "./under-test.js"

const skipped = noCniHost()
let host: CniHost
let place: Workplace

const image = () => `oci:${busyboxImage()}`
const runArgs = (args: readonly string[]) => ["run", ...RUN_OPTIONS, "--rm", ...host.options, ...args]
const start = (args: readonly string[]) => host.spawn(process.execPath, [CLI, ...runArgs(args)], place.env)

async function run(...args: string[]) {
  const child = start(args)
  child.stdin.end()
  const { stdout, stderr, exitCode } = await collect(child)
  return { stdout: stdout.toString(), stderr, exitCode }
}

async function prune() {
  const child = host.spawn(process.execPath, [CLI, "prune"], place.env)
  const { stdout, stderr, exitCode } = await collect(child)
  return { stdout: stdout.toString(), stderr, exitCode }
}

/** Names of namespaces that sandboxes of this test may have had. */
const seen = new Set<string>()

/** Folders of sandboxes that are there. */
function ids(): string[] {
  const found = readdirSync(join(place.stateDir, "s")).filter(name => /^[0-9a-f]{12}$/.test(name))
  for (const id of found) seen.add(`tsvmm-${id}`)
  return found
}

/** Owners that a test has not ended: one that failed. */
const children = new Set<ReturnType<typeof start>>()

/** Starts a guest whose script says `ready` and then waits for the end of its stdin; what it said before. */
async function startServer(...args: string[]) {
  const child = start(["-i", ...args])
  children.add(child)
  child.once("close", () => children.delete(child))
  let said = ""
  let complaints = ""
  child.stderr.on("data", chunk => {
    complaints += chunk
  })
  await new Promise<void>((resolve, reject) => {
    child.stdout.on("data", chunk => {
      said += chunk
      if (said.includes("ready\n")) resolve()
    })
    child.once("close", () => reject(new Error(`it ended: ${complaints}`)))
  })
  return { child, said }
}

const SERVER = "mkdir /w; echo from the guest > /w/index.html; httpd -p 80 -h /w; echo ready; cat > /dev/null"

function expectNetworksGivenBack() {
  expect(host.leases()).toEqual([])
  expect(host.left()).toEqual([])
  expect(readdirSync("/run/netns").filter(name => seen.has(name))).toEqual([])
}

function expectNothingLeft() {
  expectNetworksGivenBack()
  expect(place.leftFiles()).toEqual([])
}

beforeAll(async () => {
  if (skipped) return
  place = new Workplace()
  host = new CniHost()
  await host.serve()
})

afterAll(async () => {
  if (skipped) return
  for (const child of children) {
    const gone = collect(child)
    child.kill("SIGKILL")
    await gone
  }
  await prune()
  expect(place.leftProcesses()).toEqual([])
  host.close()
  place.remove()
})

describe.skipIf(skipped !== undefined)(`CNI plugins${skipped ? ` (skipped: ${skipped})` : ""}`, () => {
  afterEach(expectNothingLeft)

  test("give the guest what they gave the interface in its namespace", async () => {
    const facts =
      "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu /etc/resolv.conf; ip -o addr; ip route; ip -6 route"
    const { child, said } = await startServer(
      "--network",
      "cni:lan",
      image(),
      "sh",
      "-c",
      `${facts}; ${SERVER}`,
    )
    const [id = ""] = ids()
    const inside = (...args: string[]) =>
      execFileSync("ip", ["-n", `tsvmm-${id}`, ...args], { encoding: "utf8" })
    const [link] = JSON.parse(inside("-j", "addr", "show", "dev", "eth0"))
    expect(said.split("\n").slice(0, 3)).toEqual([link.address, "1400", "nameserver 10.77.0.1"])
    const own = link.addr_info.filter((one: { scope: string }) => one.scope === "global")
    expect(own).toHaveLength(2)
    for (const { local, prefixlen } of own) expect(said).toContain(`${local}/${prefixlen} `)
    expect(said).toContain("default via 10.77.0.1 dev eth0")
    expect(said).toMatch(/192\.0\.2\.0\/24 via 10\.77\.0\.9 dev eth0/)
    expect(said).toMatch(/default via fd77::1 dev eth0/)
    expect(inside("-br", "link", "show", "type", "tun")).toMatch(new RegExp(`^tsv${id} `))
    const filters = execFileSync("tc", ["-n", `tsvmm-${id}`, "filter", "show", "dev", "eth0", "ingress"], {
      encoding: "utf8",
    })
    expect(filters).toContain(`Egress Redirect to device tsv${id}`)
    expect(host.leases()).toHaveLength(2)
    child.stdin.end()
    expect(await collect(child)).toMatchObject({ exitCode: 0 })
  })

  test("connect it both ways, also where `ip netns exec` has mounts of its own", async () => {
    const script = [
      "ping -q -c 3 10.77.0.1 && ping -q -c 1 fd77::1",
      "wget -q -O - http://10.77.0.1:8080/ && wget -q -O - http://[fd77::1]:8080/",
    ].join(" && ")
    const args = runArgs(["--network", "cni:lan", image(), "sh", "-c", script])
    const child = host.spawnByIp(process.execPath, [CLI, ...args], place.env)
    child.stdin.end()
    const { stdout, stderr, exitCode } = await collect(child)
    expect({ stderr, exitCode }).toEqual({ stderr: "", exitCode: 0 })
    expect(stdout.toString()).toMatch(/3 packets transmitted, 3 packets received/)
    expect(stdout.toString()).toMatch(/hello ::ffff:10\.77\.0\.\d+\nhello fd77::[0-9a-f]+\n$/)
  })

  test("publish ports of the host", async () => {
    const ports = ["-p", "8081:80", "-p", "0.0.0.0:8082:80"]
    const { child } = await startServer("--network", "cni:lan", ...ports, image(), "sh", "-c", SERVER)
    const [address, address6] = host.leases() as [string, string]
    host.ping(address)
    host.ping(address6)
    host.ip("addr", "add", "198.51.100.1/32", "dev", "lo")
    expect(host.get(address)).toBe("from the guest\n")
    expect(host.get("127.0.0.1:8081")).toBe("from the guest\n")
    expect(host.get("198.51.100.1:8082")).toBe("from the guest\n")
    // Of this machine only.
    expect(host.get("198.51.100.1:8081")).toBe("")
    child.stdin.end()
    expect(await collect(child)).toMatchObject({ exitCode: 0 })
  })

  test("give everything back after their sandbox was killed, to whoever prunes", async () => {
    const { child } = await startServer("--network", "cni:lan", "-p", "8081:80", image(), "sh", "-c", SERVER)
    const [id = ""] = ids()
    child.kill("SIGKILL")
    await collect(child)
    expect(host.leases()).toHaveLength(2)
    expect(host.left()).not.toEqual([])
    expect(await prune()).toEqual({ stdout: `${id}\n`, stderr: "", exitCode: 0 })
    expect(readdirSync("/run/netns")).not.toContain(`tsvmm-${id}`)
  })

  test("give everything back after their sandbox was killed, when the next one starts", async () => {
    const { child } = await startServer("--network", "cni:lan", image(), "sh", "-c", SERVER)
    ids()
    child.kill("SIGKILL")
    await collect(child)
    const next = start(["-i", image(), "cat"])
    children.add(next)
    next.once("close", () => children.delete(next))
    const ended = collect(next)
    // It is done while the next one runs, and takes its time: whoever ends before leaves the rest to others.
    await vi.waitFor(expectNetworksGivenBack, { timeout: PATIENCE_MS, interval: 100 })
    next.stdin.end()
    expect(await ended).toMatchObject({ stderr: "", exitCode: 0 })
  })

  test("N9: that fail after they have made something give all of it back", async () => {
    host.breakWith(`[ "$CNI_COMMAND" = DEL ] && exit 0; echo '{"code": 42, "msg": "no room"}'; exit 1`)
    const ended = await run("--network", "cni:broken", image(), "true")
    expect(ended).toMatchObject({ stdout: "", exitCode: 125 })
    expect(ended.stderr).toContain("broken: ADD failed: no room")
  })

  test("N9: that fail, and then cannot give something back, say both", async () => {
    host.breakWith(`echo '{"code": 42, "msg": "no room"}'; exit 1`)
    const ended = await run("--network", "cni:broken", image(), "true")
    expect(ended).toMatchObject({ stdout: "", exitCode: 125 })
    expect(ended.stderr).toMatch(
      /broken: ADD failed: no room; and DEL of .* its record is kept: .*prune tries/,
    )
    expect(host.leases()).toEqual([])
    const [id = ""] = ids()
    host.breakWith("exit 0")
    expect(await prune()).toEqual({ stdout: `${id}\n`, stderr: "", exitCode: 0 })
  })

  test("N9: that cannot give something back are asked again until they can", async () => {
    host.breakWith(`[ "$CNI_COMMAND" = ADD ] || exit 1; exec sed 's/.*"prevResult"://; s/}$//'`)
    const ended = await run("--network", "cni:broken", image(), "echo", "hello")
    expect(ended).toMatchObject({ stdout: "hello\n", exitCode: 0 })
    expect(ended.stderr).toMatch(
      /DEL of eth0 of tsvmm-\w+ failed, its record is kept: broken: DEL failed: exit code 1/,
    )
    // What the others had is back.
    expect(host.leases()).toEqual([])
    const again = await prune()
    expect(again.stderr).toContain("its record is kept")
    expect(again).toMatchObject({ stdout: "", exitCode: 125 })
    const [id = ""] = ids()
    const record = join(place.stateDir, "s", id, "cni", `tsvmm-${id}@eth0.json`)
    expect(JSON.parse(readFileSync(record, "utf8"))).toMatchObject({ version: 1 })
    host.breakWith("exit 0")
    expect(await prune()).toEqual({ stdout: `${id}\n`, stderr: "", exitCode: 0 })
  })

  test("give everything back when the guest does not come up", async () => {
    const ended = await run("--network", "cni:lan", "--kernel", "/bin/true", image(), "true")
    expect(ended).toMatchObject({ stdout: "", exitCode: 125 })
    expect(ended.stderr).toContain("before its agent was up")
  })

  test("that are not there, or cannot publish, are refused with a line", async () => {
    const missing = await run("--network", "cni:nothing", image(), "true")
    expect(missing.stderr).toContain("is called nothing")
    const ports = await run("--network", "cni:plain", "-p", "80:80", image(), "true")
    expect(ports.stderr).toContain("no plugin of the network plain publishes ports")
    const path = await run("--network", "cni:../lan", image(), "true")
    expect(path.stderr).toContain("no name of a network")
    expect([missing, ports, path].map(({ exitCode }) => exitCode)).toEqual([125, 125, 125])
  })
})
