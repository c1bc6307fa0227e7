import type { MessageInitShape } from "@bufbuild/protobuf"
import type { StorageSchema } from "@ts-vmm/guest"
import { STORAGE_SERIAL } from "../storage/disk.js"
import type { StorageConfig } from "../storage/options.js"

type Storage = MessageInitShape<typeof StorageSchema>

/** Where the agent keeps everything of ours. */
const GUEST_DIR = "/run/tsvmm"
const IMAGE_DIR = `${GUEST_DIR}/image`
const STORAGE_DIR = `${GUEST_DIR}/storage`
/** What the image's disk calls itself: the guest's order of disks says nothing. */
export const IMAGE_SERIAL = "tsvmm-image"

/** Guest path of a container's root file system. */
export function containerRoot(id: string): string {
  return `${GUEST_DIR}/containers/${id}/rootfs`
}

/** Mounted once a sandbox: the image, read-only, and what its containers write to. They share both. */
export function sandboxStorages(storage: StorageConfig): Storage[] {
  return [
    {
      driver: "blk",
      source: `serial:${IMAGE_SERIAL}`,
      fstype: "erofs",
      options: ["ro"],
      mountPoint: IMAGE_DIR,
    },
    storage.kind === "disk" ? diskStorage() : memoryStorage(storage.sizeMiB),
  ]
}

/** Without a size guest RAM is the limit. */
function memoryStorage(sizeMiB: number | undefined): Storage {
  const size = sizeMiB === undefined ? "100%" : `${sizeMiB}m`
  return {
    driver: "tmpfs",
    source: "tmpfs",
    fstype: "tmpfs",
    options: [`size=${size}`, "mode=755"],
    mountPoint: STORAGE_DIR,
  }
}

/**
 * - `discard`: the host's file shrinks as files are removed.
 * - `nobarrier`: nothing outlives the sandbox, so nothing has to reach the host's disk.
 * - `noinit_itable`: the disk is zeroes already.
 * - `errors=remount-ro`: a file system that the host could not write is not written on.
 *
 * Programs keep their setuid bits; device nodes are opened through the overlay, whose options count.
 */
function diskStorage(): Storage {
  return {
    driver: "blk",
    source: `serial:${STORAGE_SERIAL}`,
    fstype: "ext4",
    options: ["nodev", "noatime", "discard", "nobarrier", "noinit_itable", "errors=remount-ro"],
    mountPoint: STORAGE_DIR,
  }
}

/**
 * Mounted once a container: a writable top over the image. A container's changes are what lies in it, which needs an
 * overlay that leaves nothing of a file in the image once it is changed.
 */
export function containerStorages(id: string): Storage[] {
  const top = `${STORAGE_DIR}/${id}`
  return [
    {
      driver: "overlayfs",
      source: "overlay",
      fstype: "overlay",
      options: [
        `lowerdir=${IMAGE_DIR}`,
        `upperdir=${top}/upper`,
        `workdir=${top}/work`,
        "redirect_dir=nofollow",
        "metacopy=off",
      ],
      mountPoint: containerRoot(id),
    },
  ]
}
