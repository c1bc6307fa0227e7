import { execFileSync, spawn } from "node:child_process"
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { readRecord, type SandboxRecord, writeRecord } from "./record.js"
import { findSandbox, findSandboxes, pruneSandboxes, SandboxDirectory } from "./sandbox-directory.js"

let stateDir: string
beforeEach(() => {
  stateDir = join(mkdtempSync(join(tmpdir(), "tsv-")), "state")
})
afterEach(() => rmSync(join(stateDir, ".."), { recursive: true }))

const record = (id: string, name: string, status: SandboxRecord["status"]): SandboxRecord => ({
  id,
  name,
  image: "busybox",
  command: [],
  hypervisor: "uml",
  status,
  createdAt: 1,
  ownerPid: process.pid,
})

/** A sandbox whose owner is another process that is then killed: what a crash leaves. */
async function deadSandbox(name: string): Promise<string> {
  const directory = SandboxDirectory.create(stateDir, name)
  directory.record(record(directory.id, name, "running"))
  directory.keepRecordOnly()
  writeFileSync(join(directory.path, "left.sock"), "")
  return directory.id
}

describe("the folder", () => {
  test("R1: is 0700 all the way", () => {
    const { path } = SandboxDirectory.create(stateDir)
    for (const folder of [stateDir, join(stateDir, "s"), path])
      expect(statSync(folder).mode & 0o777).toBe(0o700)
  })

  test("is gone after remove, the name too", () => {
    const directory = SandboxDirectory.create(stateDir, "web")
    directory.remove()
    expect(readdirSync(join(stateDir, "s"))).toEqual([])
    expect(readdirSync(join(stateDir, "n"))).toEqual([])
  })

  test.each(["", ".", "..", "a/b", "-x", "a\nb", "x".repeat(65), "ünï"])("R6: refuses the name %j", name => {
    expect(() => SandboxDirectory.create(stateDir, name)).toThrowError(
      expect.objectContaining({ code: "invalid-argument" }),
    )
    expect(existsSync(join(stateDir, "s")) ? readdirSync(join(stateDir, "s")) : []).toEqual([])
  })

  test("R6: a name in use is refused without touching its owner", () => {
    const first = SandboxDirectory.create(stateDir, "web")
    first.record(record(first.id, "web", "running"))
    expect(() => SandboxDirectory.create(stateDir, "web")).toThrowError(
      expect.objectContaining({ code: "name-in-use" }),
    )
    expect(findSandboxes(stateDir).map(one => one.id)).toEqual([first.id])
  })

  test("R1: refuses a state folder that is a symbolic link, or open to others", () => {
    symlinkSync("/tmp", stateDir)
    expect(() => SandboxDirectory.create(stateDir)).toThrowError(/is not a folder/)
    rmSync(stateDir)
    execFileSync("mkdir", ["-m", "755", stateDir])
    expect(() => SandboxDirectory.create(stateDir)).toThrowError(/open to other users/)
  })
})

describe("finding", () => {
  test("by name, id and beginning of an id", () => {
    const { id } = SandboxDirectory.create(stateDir, "web")
    writeRecord(join(stateDir, "s", id), record(id, "web", "running"))
    for (const wanted of ["web", id, id.slice(0, 4)])
      expect(findSandbox(stateDir, wanted)).toMatchObject({ id, alive: true })
    expect(() => findSandbox(stateDir, "nothing")).toThrowError(
      expect.objectContaining({ code: "not-found" }),
    )
  })

  test("R11: a dead owner is told by its lock, whatever process has its pid now", async () => {
    const id = await deadSandbox("gone")
    expect(findSandbox(stateDir, "gone")).toMatchObject({ id, alive: false })
  })

  test("an owner in another process is alive until it is killed", async () => {
    const directory = SandboxDirectory.create(stateDir, "other")
    directory.record(record(directory.id, "other", "running"))
    directory.keepRecordOnly()
    const lock = join(directory.path, "lock")
    const script = `import fcntl,struct,time;f=open(${JSON.stringify(lock)},'r+');fcntl.fcntl(f,37,struct.pack('hhqqi4x',fcntl.F_WRLCK,0,0,0,0));print('held',flush=True);time.sleep(60)`
    const owner = spawn("python3", ["-c", script])
    await new Promise(resolve => owner.stdout.once("data", resolve))
    expect(findSandbox(stateDir, "other").alive).toBe(true)
    owner.kill("SIGKILL")
    await new Promise(resolve => owner.once("exit", resolve))
    expect(findSandbox(stateDir, "other").alive).toBe(false)
  })
})

describe("pruning", () => {
  test("R8: removes what dead owners left, and keeps the living and the finished", async () => {
    const dead = await deadSandbox("dead")
    const alive = SandboxDirectory.create(stateDir, "alive")
    alive.record(record(alive.id, "alive", "running"))
    const finished = SandboxDirectory.create(stateDir, "finished")
    finished.record(record(finished.id, "finished", "stopped"))
    finished.keepRecordOnly()
    expect(pruneSandboxes(stateDir, { finished: false }).removed).toEqual([dead])
    expect(pruneSandboxes(stateDir, { finished: true }).removed).toEqual([finished.id])
    expect(findSandboxes(stateDir).map(one => one.id)).toEqual([alive.id])
  })

  test("the name of a dead owner can be taken", async () => {
    await deadSandbox("web")
    expect(SandboxDirectory.create(stateDir, "web").name).toBe("web")
  })
})

describe("R10: a record that is no record", () => {
  test.each([
    ["empty", ""],
    ["truncated", '{"id":"0123'],
    ["of another shape", '{"id":5}'],
    ["null", "null"],
  ])("%s counts as left over", async (_, text) => {
    const id = await deadSandbox("broken")
    const path = join(stateDir, "s", id)
    writeFileSync(join(path, "record.json"), text)
    expect(readRecord(path)).toBeUndefined()
    expect(pruneSandboxes(stateDir, { finished: false }).removed).toEqual([id])
  })

  test("too large is not read", async () => {
    const path = join(stateDir, "s", await deadSandbox("large"))
    truncateSync(join(path, "record.json"), 10 * 1024 * 1024)
    expect(readRecord(path)).toBeUndefined()
  })
})
