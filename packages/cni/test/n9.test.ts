// N9 of the catalogue of hostile inputs and faults, clause by clause.
import { spawn, spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest"
import { launcherPath } from "../../native/src/launcher.js"
import { Cni, type CniError, type CniOptions, parseNetwork } from "../src/index.js"
import { FakePlugins, RESULT, say } from "./support/fake-plugins.js"

vi.setConfig({ testTimeout: 90_000 })

let fakes: FakePlugins
beforeEach(() => {
  fakes = new FakePlugins()
  for (const type of ["first", "second", "third"]) fakes.add(type)
})
afterEach(() => fakes.remove())

const LIST = parseNetwork(
  JSON.stringify({
    cniVersion: "1.0.0",
    name: "lan",
    plugins: [{ type: "first" }, { type: "second", capabilities: { portMappings: true } }, { type: "third" }],
  }),
)
const WEB = { containerId: "web", ifName: "eth0", netns: "/run/netns/web" }
const RECORD = "web@eth0.json"
const DEL_ALL = ["DEL third", "DEL second", "DEL first"]

const makeCni = (options: Partial<CniOptions> = {}) =>
  new Cni({ stateDir: fakes.stateDir, pluginDirs: [fakes.pluginDir], timeoutMs: 10_000, ...options })

async function failureOf(work: Promise<unknown>): Promise<CniError> {
  try {
    await work
  } catch (error) {
    return error as CniError
  }
  throw new Error("it did not fail")
}

/** One that nobody waits for may stay a zombie. */
function isRunning(pid: string): boolean {
  return existsSync(`/proc/${pid}`) && !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "utf8"))
}

/** Two processes, one of which its parent knows nothing of, that write their numbers to PIDS. */
const HANGS = `(sleep 86400 & echo $! > PIDS); sleep 86400 & echo $! >> PIDS; wait`
/** For a plugin that hangs: those beside it, small scripts, end well within it on a machine with much else to do. */
const PLUGIN_MS = 4_000
const OWNER = join(import.meta.dirname, "support", "owner.mjs")

describe("N9: the name of a plugin", () => {
  test.each([
    "../evil",
    "a/../../evil",
    "/bin/true",
    "..",
    ".",
    "",
    "a/b",
    "a\0b",
    "x".repeat(65),
    "a..b",
    5,
    null,
  ])("%j is refused where the configuration is read", type => {
    for (const plugin of [{ type }, { type: "first", ipam: { type: type || "/" } }])
      expect(() =>
        parseNetwork(JSON.stringify({ cniVersion: "1.0.0", name: "lan", plugins: [plugin] })),
      ).toThrow(expect.objectContaining({ code: "config-invalid" }))
  })

  test("leads to a program of the folders, or to none, before anything begins", async () => {
    const evil = { ...LIST, plugins: [...LIST.plugins, { ...LIST.plugins[0]!, type: "../notes/evil" }] }
    expect(await failureOf(makeCni().add(evil, WEB))).toMatchObject({ code: "invalid-argument" })
    const missing = { ...LIST, plugins: [...LIST.plugins, { ...LIST.plugins[0]!, type: "fourth" }] }
    expect(await failureOf(makeCni().add(missing, WEB))).toMatchObject({
      code: "plugin-missing",
      plugin: "fourth",
    })
    expect(fakes.calls()).toEqual([])
    expect(fakes.records()).toEqual([])
  })
})

describe("N9: an ADD that hangs for a day", () => {
  test.each([
    ["in its process group", undefined],
    ["below a launcher", launcherPath()],
  ])("is killed with what it started, %s, and DEL is run", async (_, launcher) => {
    const pids = join(fakes.root, "pids")
    fakes.add("second", { ADD: HANGS.replaceAll("PIDS", pids) })
    const cni = makeCni({ timeoutMs: PLUGIN_MS, ...(launcher ? { launcher } : {}) })
    const began = performance.now()
    expect(await failureOf(cni.add(LIST, WEB))).toMatchObject({ code: "plugin-timeout", plugin: "second" })
    expect(performance.now() - began).toBeLessThan(60_000)
    expect(fakes.calls()).toEqual(["ADD first", "ADD second", ...DEL_ALL])
    expect(fakes.records()).toEqual([])
    const left = readFileSync(pids, "utf8").trim().split("\n")
    expect(left).toHaveLength(2)
    await vi.waitFor(() => expect(left.filter(isRunning)).toEqual([]), { timeout: 20_000 })
  })

  test("that lets go of its output hangs no longer", async () => {
    fakes.add("second", { ADD: "exec > /dev/null 2>&1 < /dev/null; sleep 86400" })
    expect(await failureOf(makeCni({ timeoutMs: PLUGIN_MS }).add(LIST, WEB))).toMatchObject({
      code: "plugin-timeout",
      plugin: "second",
    })
  })

  test("ends when its caller's patience does", async () => {
    const begun = join(fakes.root, "begun")
    fakes.add("second", { ADD: `touch ${begun}; sleep 86400` })
    const patience = new AbortController()
    const failure = failureOf(makeCni().add(LIST, WEB, { signal: patience.signal }))
    await vi.waitFor(() => expect(existsSync(begun)).toBe(true), { timeout: 20_000 })
    patience.abort()
    expect(await failure).toMatchObject({ code: "aborted" })
    expect(fakes.calls()).toEqual(["ADD first", "ADD second", ...DEL_ALL])
  })

  test("and a DEL that hangs keeps the record", async () => {
    fakes.add("second", { ADD: "exit 1", DEL: "sleep 86400" })
    const error = await failureOf(makeCni({ timeoutMs: PLUGIN_MS }).add(LIST, WEB))
    expect(error).toMatchObject({ code: "plugin-failed", cleanUp: { code: "delete-failed" } })
    expect(fakes.records()).toEqual([RECORD])
  })
})

describe("N9: an ADD that fails after it has made something", () => {
  test("is followed by DEL of the whole list, which takes it away", async () => {
    const veth = join(fakes.root, "veth")
    fakes.add("second", {
      ADD: `touch ${veth}; ${say({ code: 11, msg: "try \u001b[31magain", details: "later" })}; exit 1`,
      DEL: `rm ${veth}`,
    })
    expect(await failureOf(makeCni().add(LIST, WEB))).toMatchObject({
      code: "plugin-failed",
      plugin: "second",
      pluginCode: 11,
      details: "later",
      message: "second: ADD failed: try [31magain",
      cleanUp: undefined,
    })
    expect(existsSync(veth)).toBe(false)
    expect(fakes.calls()).toEqual(["ADD first", "ADD second", ...DEL_ALL])
    expect(fakes.records()).toEqual([])
  })

  test("because a plugin does not speak the version is over with it: its DEL cannot do better", async () => {
    const refuses = `${say({ code: 1, msg: "incompatible CNI versions" })}; exit 1`
    fakes.add("second", { ADD: refuses, DEL: refuses })
    expect(await failureOf(makeCni().add(LIST, WEB))).toMatchObject({ pluginCode: 1, cleanUp: undefined })
    expect(fakes.records()).toEqual([])
    // One that did speak it holds something.
    fakes.add("second", { DEL: refuses })
    await makeCni().add(LIST, WEB)
    expect(await failureOf(makeCni().del(WEB))).toMatchObject({ code: "delete-failed" })
  })

  test("gives its lease back though its own DEL comes last and others fail", async () => {
    const lease = join(fakes.root, "lease")
    fakes.add("first", { ADD: `touch ${lease}; ${say(RESULT)}`, DEL: `rm -f ${lease}` })
    fakes.add("third", { ADD: "echo no >&2; exit 3", DEL: "exit 1" })
    const error = await failureOf(makeCni().add(LIST, WEB))
    expect(error.message).toMatch(
      /^third: ADD failed: no; and DEL of eth0 of web failed, its record is kept: third: /,
    )
    expect(existsSync(lease)).toBe(false)
  })
})

describe("N9: a DEL that fails twice", () => {
  test("keeps the record both times, and is run again by another process's Cni until it succeeds", async () => {
    const cni = makeCni()
    await cni.add(LIST, WEB)
    fakes.add("second", { DEL: "exit 1" })
    fakes.calls()
    for (let attempt = 0; attempt < 2; attempt++) {
      expect(await failureOf(cni.del(WEB))).toMatchObject({
        code: "delete-failed",
        message: "DEL of eth0 of web failed, its record is kept: second: DEL failed: exit code 1",
      })
      expect(fakes.calls()).toEqual(DEL_ALL)
      expect(fakes.records()).toEqual([RECORD])
    }
    fakes.add("second")
    // Of another process: with other folders, and no configuration.
    const other = makeCni({ pluginDirs: ["/nowhere"] })
    expect(other.attachments()).toEqual([{ containerId: "web", ifName: "eth0" }])
    await other.del(WEB)
    expect(fakes.calls()).toEqual(DEL_ALL)
    expect(fakes.stdin("second", "DEL")).toMatchObject({ name: "lan", prevResult: RESULT })
    expect(fakes.records()).toEqual([])
    await other.del(WEB)
    expect(fakes.calls()).toEqual([])
  })

  test("whose plugin is gone keeps the record as well", async () => {
    await makeCni().add(LIST, WEB)
    rmSync(join(fakes.pluginDir, "third"))
    fakes.calls()
    expect(await failureOf(makeCni().del(WEB))).toMatchObject({ code: "delete-failed" })
    expect(fakes.calls()).toEqual(["DEL second", "DEL first"])
    expect(fakes.records()).toEqual([RECORD])
  })
})

describe("N9: a result", () => {
  const withField = (change: object) => say({ ...RESULT, ...change })
  test.each<[string, string]>([
    ["nothing", ":"],
    ["no JSON", "echo hello"],
    ["half of one", `printf %s '{"cniVersion": "1.0.0", "ips": [{'`],
    ["a list", say([RESULT])],
    ["100,000 brackets", "head -c 100000 /dev/zero | tr '\\0' '['"],
    ["an unknown version", withField({ cniVersion: "9.9.9" })],
    ["ips that are no list", withField({ ips: {} })],
    ["an address without prefix", withField({ ips: [{ address: "10.1.0.5" }] })],
    ["an address that is a number", withField({ ips: [{ address: 5 }] })],
    ["a prefix of 33", withField({ ips: [{ address: "10.1.0.5/33" }] })],
    ["a gateway of the other family", withField({ ips: [{ address: "10.1.0.5/24", gateway: "fe80::1" }] })],
    ["an interface that is not there", withField({ ips: [{ address: "10.1.0.5/24", interface: 1 }] })],
    ["an interface that is half a number", withField({ ips: [{ address: "10.1.0.5/24", interface: 0.5 }] })],
    ["an interface name with a slash", withField({ interfaces: [{ name: "../eth0" }] })],
    ["an interface name of 16 bytes", withField({ interfaces: [{ name: "x".repeat(16) }] })],
    ["an interface without a name", withField({ interfaces: [{ mac: RESULT.interfaces[0]?.mac }] })],
    ["a MAC address that is none", withField({ interfaces: [{ name: "eth0", mac: "02:00; reboot" }] })],
    ["a route to nowhere", withField({ routes: [{ dst: "everything" }] })],
    ["a route by a name", withField({ routes: [{ dst: "0.0.0.0/0", gw: "router" }] })],
    ["a name server by a name", withField({ dns: { nameservers: ["8.8.8.8\nsearch evil"] } })],
    ["a search domain with a line of its own", withField({ dns: { search: ["a\nnameserver 1.2.3.4"] } })],
    ["65 addresses", withField({ ips: new Array(65).fill({ address: "10.1.0.5/24" }) })],
  ])("that is %s is refused, and DEL is run", async (_, script) => {
    fakes.add("second", { ADD: script })
    expect(await failureOf(makeCni().add(LIST, WEB))).toMatchObject({ code: "result-invalid" })
    expect(fakes.calls()).toEqual(["ADD first", "ADD second", ...DEL_ALL])
    expect(fakes.records()).toEqual([])
  })

  test("without end is cut off, and its plugin killed", async () => {
    fakes.add("second", { ADD: "exec cat /dev/zero" })
    const cni = makeCni({ maxOutputBytes: 100_000 })
    expect(await failureOf(cni.add(LIST, WEB))).toMatchObject({ code: "plugin-output" })
    expect(fakes.calls()).toEqual(["ADD first", "ADD second", ...DEL_ALL])
  })

  test("is not disturbed by megabytes of log", async () => {
    fakes.add("second", { ADD: `head -c 5000000 /dev/zero >&2; ${say(RESULT)}` })
    expect((await makeCni().add(LIST, WEB)).ips).toHaveLength(1)
  })

  test("changes no prototype", async () => {
    fakes.add("third", {
      ADD: say(`{"cniVersion":"1.0.0","__proto__":{"polluted":1},"dns":{"__proto__":{"a":1}}}`),
    })
    await makeCni().add(LIST, WEB)
    await makeCni().del(WEB)
    expect(({} as { polluted?: number }).polluted).toBeUndefined()
  })
})

describe("N9: a duplicate ADD", () => {
  test("is refused before any plugin runs, until DEL has succeeded", async () => {
    const cni = makeCni()
    await cni.add(LIST, WEB)
    fakes.calls()
    expect(await failureOf(cni.add(LIST, WEB))).toMatchObject({ code: "already-added" })
    expect(await failureOf(makeCni().add(LIST, WEB))).toMatchObject({ code: "already-added" })
    expect(fakes.calls()).toEqual([])
    await cni.add(LIST, { ...WEB, ifName: "eth1" })
    await cni.del(WEB)
    await cni.add(LIST, WEB)
    expect(fakes.records()).toEqual([RECORD, "web@eth1.json"])
  })

  test("of ten at once, nine are refused", async () => {
    const all = await Promise.allSettled(Array.from({ length: 10 }, () => makeCni().add(LIST, WEB)))
    expect(all.filter(({ status }) => status === "fulfilled")).toHaveLength(1)
  })
})

describe("N9: a record", () => {
  test("is there before ADD begins, for its owner alone, and outlives the owner", async () => {
    fakes.add("first", {
      ADD: `stat -c '%a %n' ${fakes.stateDir}/*.json > ${fakes.root}/seen; kill -9 $PPID`,
    })
    const { signal } = spawnSync(process.execPath, [OWNER, fakes.stateDir, fakes.pluginDir])
    expect(signal).toBe("SIGKILL")
    expect(readFileSync(join(fakes.root, "seen"), "utf8")).toBe(`600 ${join(fakes.stateDir, RECORD)}\n`)
    expect(statSync(fakes.stateDir).mode & 0o777).toBe(0o700)
    fakes.calls()
    await makeCni().del(WEB)
    expect(fakes.calls()).toEqual(["DEL first"])
    expect(fakes.records().filter(name => name.endsWith(".json"))).toEqual([])
  })

  test("is all that is left when the owner is killed while a plugin hangs below a launcher", async () => {
    const pids = join(fakes.root, "pids")
    fakes.add("first", { ADD: HANGS.replaceAll("PIDS", pids) })
    const owner = spawn(process.execPath, [OWNER, fakes.stateDir, fakes.pluginDir, launcherPath()])
    const running = () => (existsSync(pids) ? readFileSync(pids, "utf8").split("\n").filter(Boolean) : [])
    await vi.waitFor(() => expect(running()).toHaveLength(2), { timeout: 20_000 })
    owner.kill("SIGKILL")
    await vi.waitFor(() => expect(running().filter(isRunning)).toEqual([]), { timeout: 20_000 })
    fakes.calls()
    await makeCni().del(WEB)
    expect(fakes.calls()).toEqual(["DEL first"])
  })

  test.each([
    ["half of one", '{"version":1,"network":{'],
    ["of another version", '{"version":2}'],
    ["with a plugin from elsewhere", undefined],
    ["too large", "x".repeat(9 * 2 ** 20)],
  ])("that is %s runs nothing and is kept", async (_, text) => {
    const cni = makeCni()
    await cni.add(LIST, WEB)
    const path = join(fakes.stateDir, RECORD)
    writeFileSync(path, text ?? readFileSync(path, "utf8").replace('"type":"first"', '"type":"../../evil"'))
    fakes.calls()
    expect(await failureOf(cni.del(WEB))).toMatchObject({ code: "record-invalid" })
    expect(fakes.calls()).toEqual([])
    expect(fakes.records()).toEqual([RECORD])
  })

  test("lies in no folder that is open to others", async () => {
    mkdirSync(fakes.stateDir, { mode: 0o755 })
    expect(await failureOf(makeCni().add(LIST, WEB))).toMatchObject({ code: "invalid-argument" })
    expect(fakes.calls()).toEqual([])
  })
})
