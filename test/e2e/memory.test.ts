import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { TEST_IMAGE_DIR, Workplace } from "./cli.js"
import { hostBytes } from "./host-memory.js"
import { HYPERVISOR, PATIENCE_MS, underTest } from "./under-test.js"

const MIB = 1024 * 1024
const MEMORY_MIB = 256
/** What a program writes and lets go of. */
const WRITTEN_MIB = 144

const stateDir = mkdtempSync(join(tmpdir(), "tsv-"))
const paths = { stateDir, imageDir: TEST_IMAGE_DIR }
const image = `oci:${busyboxImage()}`
afterAll(() => rmSync(stateDir, { recursive: true }))

const create = (memoryTargetMiB = MEMORY_MIB) =>
  Sandbox.create({ image, paths, ...underTest, memoryMiB: MEMORY_MIB, memoryTargetMiB })

/** Bytes of host memory that the sandbox's RAM takes. */
const taken = ({ pid = -1 }: Sandbox) => hostBytes(pid, (MEMORY_MIB - 16) * MIB)

const write = (sandbox: Sandbox) =>
  sandbox.exec("dd", ["if=/dev/zero", "of=/all", "bs=1M", `count=${WRITTEN_MIB}`], { check: true })

async function until(condition: () => boolean, what: () => string): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited in vain for ${what()}`)
    await setTimeout(10)
  }
}

describe("memory that a program freed", () => {
  let sandbox: Sandbox
  let full: number
  beforeEach(async () => {
    sandbox = await create()
    await write(sandbox)
    full = taken(sandbox)
    expect(full).toBeGreaterThanOrEqual(WRITTEN_MIB * MIB)
  })
  afterEach(() => sandbox.destroy())

  const gone = () => full - taken(sandbox)
  const backAfter = async (how: string) => {
    const freedAt = performance.now()
    await until(
      () => gone() >= 0.9 * WRITTEN_MIB * MIB,
      () => `90 % of ${WRITTEN_MIB} MiB, ${Math.round(gone() / MIB)} so far`,
    )
    const ms = Math.round(performance.now() - freedAt)
    console.log(`${how}: 90 % of ${WRITTEN_MIB} MiB back after ${ms} ms (${HYPERVISOR})`)
  }

  test("C6: comes back by itself, without a target", async () => {
    await sandbox.exec("rm", ["/all"], { check: true })
    await backAfter("by the guest's reports")
    expect(sandbox.memory.usableMiB).toBe(MEMORY_MIB)
  })

  test("comes back at once when it is reclaimed, and can be had again", async () => {
    await sandbox.exec("rm", ["/all"], { check: true })
    const reclaimed = sandbox.memory.reclaim({ timeoutMs: PATIENCE_MS })
    await backAfter("reclaimed")
    expect(await reclaimed).toBeGreaterThanOrEqual(0.9 * WRITTEN_MIB * MIB)
    await until(
      () => sandbox.memory.usableMiB === MEMORY_MIB,
      () => `an empty balloon, ${sandbox.memory.usableMiB} MiB usable`,
    )
    await write(sandbox)
    expect((await sandbox.exec("tail", ["-c", "1", "/all"])).stdout).toBe("\0")
  })
})

describe("a target", () => {
  test("is what the guest has, until its programs need more than that", async () => {
    await using sandbox = await create(80)
    const { memory } = sandbox
    expect(memory).toMatchObject({ sizeMiB: MEMORY_MIB, targetMiB: 80 })
    await until(
      () => memory.usableMiB === 80,
      () => `80 MiB, ${memory.usableMiB} usable`,
    )
    const { freeBytes } = await memory.statistics({ timeoutMs: PATIENCE_MS })
    expect(freeBytes).toBeLessThanOrEqual(80 * MIB)
    // More than it was left with: deflated before a program is killed.
    await write(sandbox)
    await until(
      () => memory.usableMiB > 80,
      () => `more than 80 MiB, ${memory.usableMiB} usable`,
    )
    await sandbox.exec("rm", ["/all"], { check: true })
    memory.setTarget(MEMORY_MIB)
    await until(
      () => memory.usableMiB === MEMORY_MIB,
      () => `all of it, ${memory.usableMiB} MiB usable`,
    )
  })

  test("C8: beyond what there is, or nothing, is refused", async () => {
    for (const wrong of [0, 31, MEMORY_MIB + 1, 64.5, Number.NaN]) {
      await expect(create(wrong)).rejects.toMatchObject({ code: "invalid-argument" })
    }
  })
})

describe("the command line", () => {
  const place = new Workplace()
  afterAll(() => place.remove())

  test("says what a sandbox of another process has, changes it, and takes what is free", async () => {
    const options = ["--rm", "-i", "--name", "m", "--memory", `${MEMORY_MIB}m`, "--memory-target", "128"]
    const child = place.start(["run", ...options, image, "sh", "-c", "echo up; cat"])
    await new Promise(resolve => child.stdout.once("data", resolve))
    const memory = async (...args: string[]) => {
      const { stdout, stderr, exitCode } = await place.run(["memory", "m", "--json", ...args])
      expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" })
      return JSON.parse(stdout.toString())
    }
    expect(await memory()).toMatchObject({ sizeMiB: MEMORY_MIB, targetMiB: 128 })
    expect(await memory("--target", "100m")).toMatchObject({ targetMiB: 100 })
    expect((await memory("--reclaim")).reclaimedBytes).toBeGreaterThan(0)
    expect((await place.run(["memory", "m"])).stdout.toString()).toMatch(/^RAM +TARGET +USABLE/)
    const refused = await place.run(["memory", "m", "--target", "1g"])
    expect(refused).toMatchObject({ exitCode: 125 })
    expect(refused.stderr).toContain("the target must be a whole number of MiB from 32 to")
    const ended = new Promise(resolve => child.once("close", resolve))
    child.stdin.end()
    expect(await ended).toBe(0)
    expect(place.leftProcesses()).toEqual([])
  })
})
