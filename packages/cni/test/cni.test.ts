import { afterEach, beforeEach, expect, test } from "vitest"
import { CNI_VERSIONS, Cni, type CniVersion, parseNetwork } from "../src/index.js"
import { FakePlugins, RESULT, say } from "./support/fake-plugins.js"

let fakes: FakePlugins
let cni: Cni
beforeEach(() => {
  fakes = new FakePlugins()
  for (const type of ["bridge", "portmap"]) fakes.add(type)
  cni = new Cni({ stateDir: fakes.stateDir, pluginDirs: ["/nowhere", fakes.pluginDir] })
})
afterEach(() => fakes.remove())

const WEB = { containerId: "web", ifName: "eth0", netns: "/run/netns/web" }
const networkOf = (cniVersion: CniVersion = "1.0.0", more = {}) =>
  parseNetwork(
    JSON.stringify({
      ...{ cniVersion, name: "lan", ...more },
      plugins: [
        { type: "bridge", mtu: 1400 },
        { type: "portmap", capabilities: { portMappings: true } },
      ],
    }),
  )

test("plugins are told what the protocol says, and nothing else of our environment", async () => {
  process.env["SECRET_TOKEN"] = "secret"
  const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: "tcp" }] as const
  const args = { IgnoreUnknown: "1", K: "v" }
  await cni.add(networkOf(), { ...WEB, args, capabilityArgs: { portMappings, bandwidth: {} } })
  delete process.env["SECRET_TOKEN"]
  const env = fakes.env("portmap", "ADD")
  expect(env).toMatchObject({
    CNI_COMMAND: "ADD",
    CNI_CONTAINERID: "web",
    CNI_NETNS: "/run/netns/web",
    CNI_IFNAME: "eth0",
    CNI_ARGS: "IgnoreUnknown=1;K=v",
    CNI_PATH: `/nowhere:${fakes.pluginDir}`,
  })
  expect(Object.keys(env)).not.toContain("SECRET_TOKEN")
  expect(fakes.stdin("bridge", "ADD")).toEqual({
    type: "bridge",
    mtu: 1400,
    name: "lan",
    cniVersion: "1.0.0",
  })
  expect(fakes.stdin("portmap", "ADD")).toEqual({
    ...{ type: "portmap", name: "lan", cniVersion: "1.0.0" },
    runtimeConfig: { portMappings },
    prevResult: RESULT,
  })
})

test("the last plugin's result is the result, checked", async () => {
  const last = {
    ...RESULT,
    ips: [...RESULT.ips, { address: "fd00::5/64", gateway: "fd00::1" }, { address: "10.2.0.5/16" }],
    routes: [{ dst: "0.0.0.0/0", gw: "10.1.0.1" }, { dst: "::/0" }],
    dns: { nameservers: ["10.1.0.1", "fd00::1"], domain: "lan", search: ["a.b"], options: ["ndots:5"] },
  }
  fakes.add("portmap", { ADD: say(last) })
  const result = await cni.add(networkOf(), WEB)
  expect(result).toEqual({
    cniVersion: "1.0.0",
    interfaces: [{ name: "eth0", mac: "02:00:00:00:00:01", sandbox: "/run/netns/x" }],
    ips: [
      { family: 4, address: "10.1.0.5", prefixLength: 24, gateway: "10.1.0.1", interface: 0 },
      { family: 6, address: "fd00::5", prefixLength: 64, gateway: "fd00::1", interface: undefined },
      { family: 4, address: "10.2.0.5", prefixLength: 16, gateway: undefined, interface: undefined },
    ],
    routes: [
      { destination: { family: 4, address: "0.0.0.0", prefixLength: 0 }, gateway: "10.1.0.1" },
      { destination: { family: 6, address: "::", prefixLength: 0 }, gateway: undefined },
    ],
    dns: last.dns,
  })
  expect(cni.result(WEB)).toEqual(result)
})

test.each(CNI_VERSIONS)(
  "version %s: results of its time are read, and DEL gets them since 0.4.0",
  async version => {
    const isOld = version < "0.3.0"
    const result = isOld
      ? {
          cniVersion: version,
          ip4: { ip: "10.1.0.5/24", gateway: "10.1.0.1", routes: [{ dst: "0.0.0.0/0" }] },
        }
      : { ...RESULT, cniVersion: version, ips: [{ version: "4", ...RESULT.ips[0] }] }
    for (const type of ["bridge", "portmap"]) fakes.add(type, { ADD: say(result) })
    const { ips, routes } = await cni.add(networkOf(version), WEB)
    expect(ips).toMatchObject([{ address: "10.1.0.5", prefixLength: 24, gateway: "10.1.0.1" }])
    expect(routes).toHaveLength(1)
    await cni.del(WEB)
    const hasResult = version >= "0.4.0"
    expect(fakes.stdin("bridge", "DEL")["prevResult"]).toEqual(hasResult ? result : undefined)
  },
)

test("CHECK asks every plugin, in order, with the result", async () => {
  await cni.add(networkOf(), WEB)
  fakes.calls()
  await cni.check(WEB)
  expect(fakes.calls()).toEqual(["CHECK bridge", "CHECK portmap"])
  expect(fakes.stdin("bridge", "CHECK")["prevResult"]).toEqual(RESULT)
  fakes.add("bridge", { CHECK: `${say({ code: 100, msg: "the veth is gone" })}; exit 1` })
  await expect(cni.check(WEB)).rejects.toMatchObject({ code: "plugin-failed", pluginCode: 100 })
})

test("CHECK is not for what was not added, before 0.4.0, or where it is disabled", async () => {
  await expect(cni.check(WEB)).rejects.toMatchObject({ code: "not-added" })
  const old = { ...RESULT, cniVersion: "0.3.1" }
  for (const type of ["bridge", "portmap"]) fakes.add(type, { ADD: say(old) })
  await cni.add(networkOf("0.3.1"), WEB)
  await expect(cni.check(WEB)).rejects.toMatchObject({ code: "unsupported" })
  await cni.add(networkOf("0.4.0", { disableCheck: true }), { ...WEB, ifName: "eth1" })
  fakes.calls()
  await cni.check({ ...WEB, ifName: "eth1" })
  expect(fakes.calls()).toEqual([])
})

test("VERSION tells what a plugin speaks", async () => {
  fakes.add("bridge", { VERSION: say({ cniVersion: "1.0.0", supportedVersions: ["0.4.0", "1.0.0"] }) })
  expect(await cni.versions("bridge")).toEqual(["0.4.0", "1.0.0"])
  fakes.add("bridge", { VERSION: say({ cniVersion: "1.0.0", supportedVersions: [5] }) })
  await expect(cni.versions("bridge")).rejects.toMatchObject({ code: "result-invalid" })
  await expect(cni.versions("../sh")).rejects.toMatchObject({ code: "invalid-argument" })
})

test.each<[string, object]>([
  ["container id", { containerId: "../web" }],
  ["container id", { containerId: "" }],
  ["interface name", { ifName: "eth/0" }],
  ["interface name", { ifName: ".." }],
  ["interface name", { ifName: "x".repeat(16) }],
  ["network namespace", { netns: "run/netns/web" }],
  ["network namespace", { netns: "/run/netns/web\nCNI_PATH=/tmp" }],
  ["argument", { args: { "A;B": "c" } }],
  ["argument", { args: { A: "b;C=d" } }],
  [
    "portMappings",
    { capabilityArgs: { portMappings: [{ hostPort: 0, containerPort: 80, protocol: "tcp" }] } },
  ],
  ["portMappings", { capabilityArgs: { portMappings: [{ hostPort: 1, containerPort: 1, protocol: "ip" }] } }],
  ["portMappings", { capabilityArgs: { portMappings: "8080:80" } }],
])("a wrong %s is refused before anything runs", async (_, change) => {
  await expect(cni.add(networkOf(), { ...WEB, ...change })).rejects.toMatchObject({
    code: "invalid-argument",
  })
  expect(fakes.calls()).toEqual([])
  expect(fakes.records()).toEqual([])
})

test.each([
  { stateDir: "state" },
  { pluginDirs: [] },
  { pluginDirs: ["bin"] },
  { pluginDirs: ["/a:/b"] },
  { timeoutMs: 0 },
])("options that cannot be are refused: %j", options => {
  expect(() => new Cni({ stateDir: fakes.stateDir, ...options })).toThrow(
    expect.objectContaining({ code: "invalid-argument" }),
  )
})
