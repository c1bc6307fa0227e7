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

const isRoot = process.getuid?.() === 0

// Cases change users and owners.
describe.skipIf(!isRoot)(`the POSIX cases${isRoot ? "" : " (skipped: they need root)"}`, () => {
  let folder: string
  let onHost: PosixFsResults
  let inSandbox: PosixFsResults

  beforeAll(async () => {
    folder = mkdtempSync("/dev/shm/posix-fs-")
    onHost = runOnHost(join(folder, "host"))
    inSandbox = await runInSandbox(folder, join(folder, "shared"))
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
    expect(inSandbox.skipped).toEqual(onHost.skipped)
    expect(inSandbox.ok.length + inSandbox.failed.size).toBe(onHost.ok.length)
  })

  test("every difference is still one", () => {
    const ran = (name: string) => !inSandbox.skipped.includes(name)
    const expected = Object.keys(DIFFERENCES).filter(ran)
    expect(expected.filter(name => !inSandbox.failed.has(name))).toEqual([])
  })
})

function runOnHost(folder: string): PosixFsResults {
  mkdirSync(folder)
  const options = { encoding: "utf8", timeout: RUN_TIMEOUT_MS } as const
  return readPosixFsResults(execFileSync(posixFsProgram(), [folder], options))
}

async function runInSandbox(root: string, shared: string): Promise<PosixFsResults> {
  mkdirSync(join(shared, "work"), { recursive: true })
  copyFileSync(posixFsProgram(), join(shared, "posix-fs"))
  await using sandbox = await Sandbox.create({
    image: `oci:${busyboxImage()}`,
    paths: { stateDir: join(root, "state"), imageDir: join(root, "images") },
    mounts: [{ source: shared, target: "/shared" }],
    ...underTest,
  })
  const program = await sandbox.exec("/shared/posix-fs", ["/shared/work"], { timeoutMs: RUN_TIMEOUT_MS })
  expect(program.stderr).toBe("")
  expect(program.exitCode).toBe(0)
  return readPosixFsResults(program.stdout)
}
