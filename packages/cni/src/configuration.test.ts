import { execFileSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { loadNetwork, parseNetwork } from "./index.js"

const LIST = { cniVersion: "1.0.0", name: "lan", plugins: [{ type: "bridge" }] }
const refused = (code: string) => expect.objectContaining({ code })

describe("a configuration", () => {
  test("of one plugin is a list of one", () => {
    const network = parseNetwork('{"cniVersion":"0.3.1","name":"lan","type":"ptp","mtu":1400}')
    expect(network).toMatchObject({ name: "lan", cniVersion: "0.3.1", plugins: [{ type: "ptp" }] })
    expect(network.plugins[0]?.configuration).toMatchObject({ mtu: 1400 })
  })

  test("without a version is of the first one", () => {
    expect(parseNetwork('{"name":"lan","type":"ptp"}').cniVersion).toBe("0.1.0")
  })

  test("says what its plugins can", () => {
    const capabilities = { portMappings: true, bandwidth: false }
    const { plugins } = parseNetwork(
      JSON.stringify({ ...LIST, plugins: [{ type: "portmap", capabilities }] }),
    )
    expect([...(plugins[0]?.capabilities ?? [])]).toEqual(["portMappings"])
  })

  test.each<[string, unknown]>([
    ["no object", []],
    ["without a name", { ...LIST, name: undefined }],
    ["with a path for a name", { ...LIST, name: "../lan" }],
    ["with a number for a name", { ...LIST, name: 5 }],
    ["of a version to come", { ...LIST, cniVersion: "9.0.0" }],
    ["without plugins", { ...LIST, plugins: [] }],
    ["with 33 plugins", { ...LIST, plugins: new Array(33).fill({ type: "bridge" }) }],
    ["with a plugin that is a string", { ...LIST, plugins: ["bridge"] }],
    ["with a switch that is a string", { ...LIST, disableCheck: "false" }],
    [
      "with a delegate from elsewhere",
      { ...LIST, plugins: [{ type: "flannel", delegate: { type: "../sh" } }] },
    ],
    ["with an ipam that is a list", { ...LIST, plugins: [{ type: "bridge", ipam: [] }] }],
  ])("%s is refused", (_, document) => {
    expect(() => parseNetwork(JSON.stringify(document))).toThrow(refused("config-invalid"))
  })

  test("of 2 MiB, or nested without end, is refused", () => {
    expect(() => parseNetwork(JSON.stringify({ ...LIST, more: "x".repeat(2 ** 21) }))).toThrow(/larger than/)
    expect(() => parseNetwork(`{"a":${"[".repeat(100_000)}`)).toThrow(/nested more than 64/)
    // Brackets in strings are none.
    expect(parseNetwork(JSON.stringify({ ...LIST, more: '\\"[['.repeat(100) })).name).toBe("lan")
  })
})

describe("a folder of configurations", () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "cni-conf-"))
  })
  afterEach(() => rmSync(folder, { recursive: true }))
  const write = (file: string, document: unknown) =>
    writeFileSync(join(folder, file), typeof document === "string" ? document : JSON.stringify(document))

  test("gives the first of a name, whatever the file is called", () => {
    write("20-lan.conflist", { ...LIST, plugins: [{ type: "macvlan" }] })
    write("10-other.conf", { cniVersion: "0.4.0", name: "other", type: "ptp" })
    write("15-lan.json", LIST)
    write("00-lan.txt", "not a configuration")
    expect(loadNetwork("lan", folder).plugins[0]?.type).toBe("bridge")
    expect(loadNetwork("other", folder).plugins[0]?.type).toBe("ptp")
  })

  test("is not disturbed by another network's broken file, but says so when nothing is found", () => {
    write("10-broken.conflist", "{")
    write("20-lan.conflist", LIST)
    expect(loadNetwork("lan", folder).name).toBe("lan")
    expect(() => loadNetwork("wan", folder)).toThrow(/10-broken.conflist: not JSON/)
  })

  test("without the name, or not there, is told", () => {
    write("20-lan.conflist", LIST)
    expect(() => loadNetwork("wan", folder)).toThrow(refused("config-missing"))
    expect(() => loadNetwork("wan", join(folder, "nothing"))).toThrow(refused("config-missing"))
  })

  test.each(["../lan", "", "a/b", "/etc/passwd"])("takes %j for no name", name => {
    expect(() => loadNetwork(name, folder)).toThrow(refused("invalid-argument"))
  })

  test("does not wait for a pipe with a file's name, nor read what is huge", () => {
    execFileSync("mkfifo", [join(folder, "10-pipe.conf")])
    execFileSync("truncate", ["-s", "1G", join(folder, "20-huge.conf")])
    write("30-lan.conflist", LIST)
    expect(loadNetwork("lan", folder).name).toBe("lan")
  })
})
