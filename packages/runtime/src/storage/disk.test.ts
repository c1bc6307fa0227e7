import { execFileSync } from "node:child_process"
import { mkdtempSync, readdirSync, readlinkSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { makeStorageDisk } from "./disk.js"
import { makeNamelessFile } from "./nameless-file.js"
import { checkStorage } from "./options.js"

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "disk-"))
})
afterEach(() => rmSync(folder, { recursive: true }))

const MIB = 1024 * 1024
/** Paths of this process's open files in the folder. */
const openFiles = () =>
  readdirSync("/proc/self/fd").flatMap(fd => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`)
      return target.startsWith(folder) ? [`/proc/self/fd/${fd}`] : []
    } catch {
      return [] // the one that lists them
    }
  })
const make = (over = {}) =>
  makeStorageDisk({ sizeMiB: 64, folder, fallback: folder, onFailure: () => undefined, ...over })

describe("a disk for what containers write", () => {
  test("has no name, mode 0600, its whole size and hardly a byte; closing it is its end", async () => {
    const disk = await make()
    expect(readdirSync(folder)).toEqual([])
    const [path, ...others] = openFiles()
    expect(others).toEqual([])
    const stat = statSync(path as string)
    expect({ size: stat.size, mode: stat.mode & 0o777 }).toEqual({ size: 64 * MIB, mode: 0o600 })
    expect(stat.blocks * 512).toBeLessThan(MIB)
    disk.close()
    expect(openFiles()).toEqual([])
  })

  test("holds a file system that e2fsck finds nothing wrong with, without a journal", async () => {
    const disk = await make()
    const path = `/proc/${process.pid}/fd/${(openFiles()[0] as string).split("/").at(-1)}`
    expect(execFileSync("/sbin/e2fsck", ["-fn", path], { stdio: "pipe" }).toString()).toContain(
      "0.0% non-contiguous",
    )
    expect(execFileSync("/sbin/dumpe2fs", ["-h", path], { stdio: "pipe" }).toString()).not.toContain(
      "has_journal",
    )
    disk.close()
  })

  test("where files need a name it lies in the sandbox's folder, and loses its name at once", async () => {
    // A folder of procfs takes no files at all.
    const disk = await make({ folder: "/proc/self" })
    expect(readdirSync(folder)).toEqual([])
    expect(openFiles()).toHaveLength(1)
    disk.close()
  })

  test("without mke2fs it says which package has it, and leaves nothing", async () => {
    await expect(make({ mke2fs: join(folder, "none") })).rejects.toMatchObject({
      code: "hypervisor-unavailable",
      message: expect.stringContaining("install the package e2fsprogs"),
    })
    expect(openFiles()).toEqual([])
  })

  test("what mke2fs says is in the error", async () => {
    const failed = make({ sizeMiB: 0 })
    await expect(failed).rejects.toMatchObject({
      code: "no-space",
      message: expect.stringContaining("mke2fs"),
    })
    expect(openFiles()).toEqual([])
  })

  test("a size that the host's file system cannot have is `no-space`", async () => {
    expect(() => makeNamelessFile(folder, folder, 2 ** 53)).toThrow()
    await expect(make({ sizeMiB: 2 ** 33 })).rejects.toMatchObject({ code: "no-space" })
    expect(openFiles()).toEqual([])
  })
})

describe("options", () => {
  test("have defaults", () => {
    expect(checkStorage()).toEqual({ kind: "memory", sizeMiB: undefined })
    expect(checkStorage({ kind: "disk" })).toEqual({ kind: "disk", sizeMiB: 10_240 })
  })

  test.each([
    [{ kind: "tape" }, /unknown storage "tape"/],
    [{ kind: "disk", sizeMiB: 15 }, /from 16 to 1048576, not 15/],
    [{ kind: "disk", sizeMiB: 2 ** 21 }, /not 2097152/],
    [{ kind: "memory", sizeMiB: 0.5 }, /from 1 to/],
  ])("%j is refused", (storage, message) => {
    expect(() => checkStorage(storage as never)).toThrow(message)
  })
})
