import { execFileSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ImageStore, type StoredImage } from "@ts-vmm/oci-image"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { changedRoot, makeDebianRoot, splitRoot } from "./images/debian-layers.js"
import { differences, seenInFolder, seenOnDisk } from "./images/seen-files.js"

const isRoot = process.getuid?.() === 0
const folder = mkdtempSync(join(tmpdir(), "image-contents-"))
const root = join(folder, "root")

afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Unpacks an image as umoci does, whole layers one over the other. */
function unpacked(layout: string, name: string): string {
  const bundle = join(folder, name)
  execFileSync("umoci", ["unpack", "--image", `${layout}:latest`, bundle])
  return join(bundle, "rootfs")
}

/** Whether this machine's kernel mounts such a file system from a file. */
function canMount(type: "erofs" | "ext4"): boolean {
  if (!isRoot || !readFileSync("/proc/filesystems", "utf8").includes(`\t${type}`)) return false
  try {
    execFileSync("losetup", ["--find"], { stdio: "ignore" })
    return true
  } catch {
    return false
  }
}

describe.skipIf(!isRoot)(
  `Debian in layers${isRoot ? "" : " (skipped: umoci needs root for owners and devices)"}`,
  () => {
    beforeAll(() => makeDebianRoot(root))

    test.each([1, 5, 60])("%i: every file is what umoci unpacks", async count => {
      const layout = await splitRoot(root, count, folder)
      const store = await ImageStore.open(join(folder, `store-${count}`), { keepBlobs: false })
      const image = await store.load(`oci:${layout}`)
      const expected = seenInFolder(unpacked(layout, `bundle-${count}`))
      expect(image.layers).toHaveLength(count)
      expect(expected.size).toBeGreaterThan(7000)
      expect(expected.has("etc/debian_version")).toBe(count === 1)
      expect(differences(seenOnDisk(image.disk()), expected)).toEqual([])
    })

    test("a layer that only changes modes and owners shares all content with the one below", async () => {
      const layout = await changedRoot(root, folder)
      const store = await ImageStore.open(join(folder, "store-changed"), { keepBlobs: false })
      const image = await store.load(`oci:${layout}`)
      const expected = seenInFolder(unpacked(layout, "bundle-changed"))
      expect(differences(seenOnDisk(image.disk()), expected)).toEqual([])
      const [, base, changed] = image.disk().parts
      expect(changed?.size).toBe(base?.size)
      expect(image.sharedSize).toBe(changed?.size)
    })

    test.skipIf(!canMount("erofs"))("Linux sees the same where it can mount EROFS from a file", async () => {
      const store = await ImageStore.open(join(folder, "store-5"))
      const [entry] = await store.list()
      const mounted = mount("erofs", erofsFile(entry?.image as StoredImage))
      try {
        expect(differences(seenInFolder(mounted), seenInFolder(join(folder, "bundle-5/rootfs")))).toEqual([])
      } finally {
        execFileSync("umount", [mounted])
      }
    })

    test.skipIf(!canMount("ext4"))(
      "Linux sees the same on an ext4 disk, which e2fsck finds whole",
      async () => {
        const store = await ImageStore.open(join(folder, "store-5"))
        const [entry] = await store.list()
        const disk = join(folder, "disk.ext4")
        await store.exportExt4(entry?.image.digest ?? "", disk)
        execFileSync("/sbin/e2fsck", ["-fn", disk], { stdio: "pipe" })
        const mounted = mount("ext4", disk)
        try {
          const seen = seenInFolder(mounted)
          expect(seen.delete("lost+found")).toBe(true)
          expect(differences(seen, seenInFolder(join(folder, "bundle-5/rootfs")))).toEqual([])
        } finally {
          execFileSync("umount", [mounted])
        }
      },
    )
  },
)

function erofsFile(image: StoredImage): string {
  const file = join(folder, "disk.erofs")
  writeFileSync(file, Buffer.concat(image.disk().parts.map(part => readFileSync(part.path))))
  return file
}

function mount(type: "erofs" | "ext4", file: string): string {
  const at = join(folder, `mounted-${type}`)
  mkdirSync(at)
  execFileSync("mount", ["-t", type, "-o", "ro,loop", file, at])
  return at
}
