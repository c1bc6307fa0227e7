// What POSIX and Linux say of files, on the host's tmpfs and on the same tmpfs shared with a sandbox by virtio-fs. The
// cases are in test/fixtures/posix-fs.
import { execFileSync } from "node:child_process"
import { copyFileSync, mkdirSync, mkdtempSync } from "node:fs"
import { join } from "node:path"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { type PosixFsResults, posixFsProgram, readPosixFsResults } from "../fixtures/posix-fs/posix-fs.js"
import { underTest } from "./under-test.js"

/** Fewer would mean that the program ended early. */
const LEAST_CASES = 390
/** Half a minute does; a processor that is emulated takes its time. */
const RUN_TIMEOUT_MS = 900_000

/** Cases that are otherwise on our virtio-fs, and why. */
const DIFFERENCES: Readonly<Record<string, string>> = {}
/** The same where locks and access lists are the host's. */
const HOSTS_DIFFERENCES: Readonly<Record<string, string>> = {
  "locks/getlk-tells-who-has-it": "the host knows locks of the sandbox and not of its processes",
  "locks/waiting-for-each-other": "nobody looks for such circles: the wait ends with EINTR, after 30 s",
}
/** Access lists are there for a mount that asks for them. */
const isAcl = (name: string) => name.startsWith("acl/")

const isRoot = process.getuid?.() === 0

// Cases change users and owners.
describe.skipIf(!isRoot)(`the POSIX cases${isRoot ? "" : " (skipped: they need root)"}`, () => {
  let folder: string
  let onHost: PosixFsResults
  let inSandbox: PosixFsResults
  /** Cases of locks and access lists, on a mount where both are the host's. */
  let ofHost: PosixFsResults

  beforeAll(async () => {
    folder = mkdtempSync("/dev/shm/posix-fs-")
    onHost = runOnHost(join(folder, "host"))
    ;[inSandbox, ofHost] = await runInSandbox(folder)
  }, 2 * RUN_TIMEOUT_MS)
  // A case that was cut short may leave paths that are too long for Node.
  afterAll(() => execFileSync("rm", ["-rf", folder]))

  test("all hold on the host's tmpfs", () => {
    expect(Object.fromEntries(onHost.failed)).toEqual({})
    expect(onHost.ok.length + onHost.skipped.length).toBeGreaterThanOrEqual(LEAST_CASES)
  })

  test("the same hold on virtio-fs, but for the differences", () => {
    const unexpected = [...inSandbox.failed].filter(([name]) => !(name in DIFFERENCES))
    expect(Object.fromEntries(unexpected)).toEqual({})
    const others = (names: readonly string[]) => names.filter(name => !isAcl(name))
    expect(others(inSandbox.skipped)).toEqual(others(onHost.skipped))
    expect(inSandbox.skipped.some(isAcl)).toBe(true)
    expect(inSandbox.ok.length + inSandbox.failed.size).toBe(others(onHost.ok).length)
  })

  test("those of locks and access lists hold where these are the host's, but for the differences", () => {
    const unexpected = [...ofHost.failed].filter(([name]) => !(name in HOSTS_DIFFERENCES))
    expect(Object.fromEntries(unexpected)).toEqual({})
    const ran = onHost.ok.filter(name => isAcl(name) || name.startsWith("locks/"))
    expect([...ofHost.ok, ...ofHost.failed.keys()].sort()).toEqual([...ran].sort())
  })

  test("every difference is still one", () => {
    for (const [differences, results] of [
      [DIFFERENCES, inSandbox],
      [HOSTS_DIFFERENCES, ofHost],
    ] as const) {
      const expected = Object.keys(differences).filter(name => !results.skipped.includes(name))
      expect(expected.filter(name => !results.failed.has(name))).toEqual([])
    }
  })
})

function runOnHost(folder: string): PosixFsResults {
  mkdirSync(folder)
  const options = { encoding: "utf8", timeout: RUN_TIMEOUT_MS } as const
  return readPosixFsResults(execFileSync(posixFsProgram(), [folder], options))
}

async function runInSandbox(root: string): Promise<[PosixFsResults, PosixFsResults]> {
  const [shared, locked] = ["shared", "locked"].map(name => join(root, name)) as [string, string]
  for (const folder of [shared, locked]) mkdirSync(join(folder, "work"), { recursive: true })
  copyFileSync(posixFsProgram(), join(shared, "posix-fs"))
  await using sandbox = await Sandbox.create({
    image: `oci:${busyboxImage()}`,
    paths: { stateDir: join(root, "state"), imageDir: join(root, "images") },
    mounts: [
      { source: shared, target: "/shared" },
      { source: locked, target: "/locked", locks: true, acl: true },
    ],
    ...underTest,
  })
  const run = async (...args: readonly string[]) => {
    const program = await sandbox.exec("/shared/posix-fs", args, { timeoutMs: RUN_TIMEOUT_MS })
    expect(program.stderr).toBe("")
    expect(program.exitCode).toBe(0)
    return program.stdout
  }
  const ofHost = (await run("/locked/work", "acl/")) + (await run("/locked/work", "locks/"))
  return [readPosixFsResults(await run("/shared/work")), readPosixFsResults(ofHost)]
}
