// What a dead owner has of networks, without a network: plugins are scripts, and its namespace is gone already.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseNetwork } from "@ts-vmm/cni"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { FakePlugins } from "../../../../cni/test/support/fake-plugins.js"
import { removeSandbox } from "../../remote.js"
import type { SandboxRecord } from "../../state/record.js"
import { NETWORK_FOLDER, SandboxDirectory } from "../../state/sandbox-directory.js"
import { openCni } from "./release.js"
import { startCni } from "./start.js"
import { pruneWithNetworks } from "./sweep.js"

let stateDir: string
let fakes: FakePlugins
beforeEach(() => {
  stateDir = join(mkdtempSync(join(tmpdir(), "tsv-")), "state")
  fakes = new FakePlugins()
  for (const type of ["first", "second"]) fakes.add(type)
})
afterEach(() => {
  fakes.remove()
  rmSync(join(stateDir, ".."), { recursive: true })
})

const LIST = parseNetwork(
  '{"cniVersion":"1.0.0","name":"lan","plugins":[{"type":"first"},{"type":"second"}]}',
)
const ADDED = ["ADD first", "ADD second"]
const DELETED = ["DEL second", "DEL first"]

/** A sandbox with a network whose owner let go of it. */
async function deadSandbox(status: SandboxRecord["status"] = "running"): Promise<SandboxDirectory> {
  const directory = SandboxDirectory.create(stateDir)
  const { id } = directory
  const record = { id, name: id, image: "busybox", command: [], createdAt: 1, ownerPid: 1 }
  directory.record({ ...record, hypervisor: "uml", status })
  mkdirSync(join(directory.path, NETWORK_FOLDER), { mode: 0o700 })
  const attachment = { containerId: `tsvmm-${id}`, ifName: "eth0", netns: `/run/netns/tsvmm-${id}` }
  await openCni(directory.path, [fakes.pluginDir]).add(LIST, attachment)
  directory.keepRecordOnly()
  expect(fakes.calls()).toEqual(ADDED)
  return directory
}

async function prune(finished = false) {
  const failures: string[] = []
  const removed = await pruneWithNetworks(stateDir, { finished }, error => failures.push(error.message))
  return { removed, failures }
}

describe("pruning", () => {
  test("N9: runs DEL for dead owners, and then removes what is theirs", async () => {
    const { id } = await deadSandbox()
    expect(await prune()).toEqual({ removed: [id], failures: [] })
    expect(fakes.calls()).toEqual(DELETED)
    expect(readdirSync(join(stateDir, "s"))).toEqual([])
  })

  test("N9: keeps the record, and little else, as long as DEL fails; the name is free", async () => {
    const { id, path } = await deadSandbox()
    fakes.add("first", { DEL: "exit 1" })
    for (let attempt = 0; attempt < 2; attempt++) {
      const { removed, failures } = await prune(true)
      expect(removed).toEqual([])
      expect(failures).toEqual([expect.stringContaining("its record is kept: first: DEL failed")])
      expect(fakes.calls()).toEqual(DELETED)
      expect(readdirSync(path).sort()).toEqual([NETWORK_FOLDER, "lock"])
    }
    SandboxDirectory.create(stateDir, id).remove()
    fakes.add("first")
    expect(await prune()).toEqual({ removed: [id], failures: [] })
  })

  test("gives back what an ended sandbox has, whose record stays", async () => {
    const { path } = await deadSandbox("stopped")
    expect(await prune()).toEqual({ removed: [], failures: [] })
    expect(fakes.calls()).toEqual(DELETED)
    expect(readdirSync(path).sort()).toEqual(["lock", "record.json"])
  })

  test("by two at once runs DEL once", async () => {
    await deadSandbox()
    await Promise.all([prune(), prune()])
    expect(fakes.calls()).toEqual(DELETED)
  })

  test("leaves the living alone", async () => {
    const directory = SandboxDirectory.create(stateDir)
    mkdirSync(join(directory.path, NETWORK_FOLDER))
    expect(await prune(true)).toEqual({ removed: [], failures: [] })
    expect(existsSync(directory.path)).toBe(true)
  })
})

test("rm gives the network back first, and keeps it when that fails", async () => {
  const { id, path } = await deadSandbox("stopped")
  const paths = { stateDir, imageDir: "/nowhere" }
  fakes.add("first", { DEL: "exit 1" })
  await expect(removeSandbox(id, { force: false }, paths)).rejects.toMatchObject({ code: "network-failed" })
  expect(existsSync(join(path, "record.json"))).toBe(true)
  fakes.add("first")
  await removeSandbox(id, { force: false }, paths)
  expect(existsSync(path)).toBe(false)
})

test("a user who is not root is told", async () => {
  const { getuid } = process
  process.getuid = () => 1000
  try {
    const starting = startCni({ kind: "cni", name: "lan", ports: [] }, stateDir, () => undefined)
    await expect(starting).rejects.toMatchObject({
      code: "network-failed",
      message: "--network cni:lan makes a network namespace: that needs root",
    })
  } finally {
    process.getuid = getuid as () => number
  }
})
