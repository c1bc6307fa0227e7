import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { StoredImage } from "@ts-vmm/oci-image"
import { BlockDevice, openFileBackend } from "@ts-vmm/virtio-devices/block"
import { FsDevice } from "@ts-vmm/virtio-devices/fs"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { containerStorages, sandboxStorages } from "../container/rootfs.js"
import { SandboxError } from "../errors.js"
import { checkOptions } from "../options.js"
import { openRoot } from "./device.js"
import { checkRootfs } from "./options.js"
import { checkHasChanges, fromMountError, isWritten, rootDefaults } from "./root.js"

const MEMORY = { kind: "memory", sizeMiB: undefined } as const
const nothing = () => undefined
let folder: string
let disk: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "root-"))
  disk = join(folder, "disk")
  writeFileSync(disk, Buffer.alloc(4096))
  symlinkSync(disk, join(folder, "link"))
})
afterAll(() => rmSync(folder, { recursive: true }))

const codeOf = (call: () => unknown): unknown => {
  try {
    call()
    return undefined
  } catch (error) {
    return (error as SandboxError).code
  }
}

describe("a root of the host", () => {
  test("is not written to unless that is asked for", () => {
    expect(checkRootfs({ kind: "folder", path: folder })).toEqual({
      kind: "folder",
      path: folder,
      writable: false,
    })
    expect(isWritten(checkRootfs({ kind: "disk", path: disk, writable: true }))).toBe(true)
    expect(isWritten(checkRootfs({ kind: "disk", path: disk }))).toBe(false)
  })

  test.each(["", "a\0b", "/nowhere"])("a path %j is refused", path => {
    expect(codeOf(() => checkRootfs({ kind: "folder", path }))).toBe("invalid-argument")
  })

  test("and an image exclude each other, and one of them is needed", () => {
    expect(() => checkOptions({})).toThrow("a sandbox needs an image or a rootfs")
    const both = { image: "debian", rootfs: { kind: "folder", path: folder } } as const
    expect(() => checkOptions(both)).toThrow("image and rootfs exclude each other")
  })

  test("has no image device, and an image that is memory no lazy begin", () => {
    const rootfs = { kind: "folder", path: folder } as const
    expect(() => checkOptions({ rootfs, imageDevice: "pmem" })).toThrow("imageDevice is for images")
    expect(() => checkOptions({ image: "debian", imageDevice: "pmem", lazy: true })).toThrow(
      "lazy is for blk",
    )
    expect(() => checkOptions({ image: "debian", imageDevice: "nvme" as "blk" })).toThrow("use blk or pmem")
    expect(checkOptions({ image: "debian" }).root).toMatchObject({ kind: "image", device: "blk" })
  })

  test("says nothing about how it is run: a shell, as root", () => {
    expect(rootDefaults(checkRootfs({ kind: "folder", path: folder }))).toMatchObject({
      cmd: ["/bin/sh"],
      user: "",
    })
  })
})

describe("its device", () => {
  test("is a folder that the host holds read-only, or a disk", () => {
    const shared = openRoot(checkRootfs({ kind: "folder", path: folder }), nothing)
    expect(shared.device).toBeInstanceOf(FsDevice)
    shared.close()
    const block = openRoot(checkRootfs({ kind: "disk", path: disk }), nothing)
    expect(block.device).toBeInstanceOf(BlockDevice)
    block.close()
  })

  test("a disk has one writer or many readers", () => {
    const [read, written] = [
      checkRootfs({ kind: "disk", path: disk }),
      { kind: "disk", path: disk, writable: true } as const,
    ]
    const first = openRoot(read, nothing)
    const second = openRoot(read, nothing)
    expect(codeOf(() => openRoot(written, nothing))).toBe("invalid-argument")
    first.close()
    second.close()
    const writer = openRoot(written, nothing)
    expect(codeOf(() => openRoot(read, nothing))).toBe("invalid-argument")
    writer.close()
  })

  test("a disk behind a symbolic link is refused, where links are not followed", () => {
    const path = join(folder, "link")
    expect(codeOf(() => openRoot(checkRootfs({ kind: "disk", path }), nothing))).toBe("invalid-argument")
    openFileBackend(path, { readOnly: true }).close()
  })
})

describe("mounts", () => {
  test("below a top the root is read-only, once for all; each container has an overlay", () => {
    const root = checkRootfs({ kind: "folder", path: folder })
    const [base] = sandboxStorages(root, MEMORY)
    expect(base).toMatchObject({ driver: "virtio-fs", fstype: "virtiofs", options: ["ro"] })
    expect(containerStorages(root, "c1")).toMatchObject([{ driver: "overlayfs" }])
    expect(sandboxStorages(checkRootfs({ kind: "disk", path: disk }), MEMORY)[0]).toMatchObject({
      fstype: "ext4",
    })
  })

  test("a root that is written to is each container's own mount, and has no changes", () => {
    const root = checkRootfs({ kind: "disk", path: disk, writable: true })
    expect(sandboxStorages(root, MEMORY)).toEqual([])
    expect(containerStorages(root, "c1")).toMatchObject([{ driver: "blk", fstype: "ext4" }])
    expect(codeOf(() => checkHasChanges(root))).toBe("invalid-argument")
  })

  test("an image that is memory is mounted with DAX, or it is said what the guest's kernel lacks", () => {
    const image = { config: {}, disk: () => ({ parts: [], size: 0 }) } as unknown as StoredImage
    const root = { kind: "image", device: "pmem", image } as const
    const storage = { driver: "blk", source: "/dev/pmem0", fstype: "erofs", options: ["ro", "dax=always"] }
    expect(sandboxStorages(root, MEMORY)[0]).toMatchObject(storage)
    const refused = new SandboxError("agent-failed", 'block device "/dev/pmem0" does not exist')
    const told = fromMountError(root, refused)
    expect(told).toMatchObject({ code: "invalid-argument", cause: refused })
    expect((told as Error).message).toContain("virtio-pmem")
    expect(fromMountError({ ...root, device: "blk" }, refused)).toBe(refused)
  })

  test("a refused mount of a disk says what can be done; other errors pass", () => {
    const root = checkRootfs({ kind: "disk", path: disk })
    const refused = new SandboxError("agent-failed", "mount ext4 /dev/vda at /x: errno 22")
    expect(fromMountError(root, refused)).toMatchObject({ code: "invalid-argument", cause: refused })
    const other = new SandboxError("agent-failed", "mount overlay")
    expect(fromMountError(root, other)).toBe(other)
  })
})
