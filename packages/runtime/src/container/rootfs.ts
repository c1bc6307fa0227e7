import type { MessageInitShape } from "@bufbuild/protobuf"
import type { StorageSchema } from "@ts-vmm/guest"
import { ROOT_SERIAL, ROOT_TAG } from "../root/device.js"
import { isWritten, ROOT_PMEM, type SandboxRoot } from "../root/root.js"
import { STORAGE_SERIAL } from "../storage/disk.js"
import type { StorageConfig } from "../storage/options.js"

type Storage = MessageInitShape<typeof StorageSchema>

/** Where the agent keeps everything of ours. */
const GUEST_DIR = "/run/tsvmm"
const BASE_DIR = `${GUEST_DIR}/base`
const STORAGE_DIR = `${GUEST_DIR}/storage`

/** Guest path of a container's root file system. */
export function containerRoot(id: string): string {
  return `${GUEST_DIR}/containers/${id}/rootfs`
}

/** Mounted once a sandbox: what lies below its containers, read-only, and what they write to. They share both. */
export function sandboxStorages(root: SandboxRoot, storage: StorageConfig): Storage[] {
  if (isWritten(root)) return []
  return [
    rootStorage(root, ["ro"], BASE_DIR),
    storage.kind === "disk" ? diskStorage() : memoryStorage(storage.sizeMiB),
  ]
}

function rootStorage(root: SandboxRoot, options: string[], mountPoint: string): Storage {
  if (root.kind === "folder")
    return { driver: "virtio-fs", source: ROOT_TAG, fstype: "virtiofs", options, mountPoint }
  const disk = { driver: "blk", source: `serial:${ROOT_SERIAL}`, options, mountPoint }
  if (root.kind !== "image") return { ...disk, fstype: "ext4" }
  if (root.device === "blk") return { ...disk, fstype: "erofs" }
  // Without dax the guest's kernel would copy, as from a disk; what cannot be had is refused.
  return { ...disk, source: ROOT_PMEM, fstype: "erofs", options: [...options, "dax=always"] }
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
 * Devices of the host's folder or disk are not opened, those of the container's own `/dev` are. A file system that the
 * host could not write is not written on.
 */
const WRITTEN_OPTIONS = { folder: ["nodev"], disk: ["nodev", "noatime", "errors=remount-ro"] } as const

/**
 * Mounted once a container: the root itself where it is written to, which containers share, or a writable top over it. A
 * container's changes are what lies in the top, which needs an overlay that leaves nothing of a file below once it is
 * changed.
 */
export function containerStorages(root: SandboxRoot, id: string): Storage[] {
  const mountPoint = containerRoot(id)
  if (isWritten(root)) return [rootStorage(root, [...WRITTEN_OPTIONS[root.kind]], mountPoint)]
  const top = `${STORAGE_DIR}/${id}`
  const options = [
    `lowerdir=${BASE_DIR}`,
    `upperdir=${top}/upper`,
    `workdir=${top}/work`,
    "redirect_dir=nofollow",
    "metacopy=off",
    // Inode numbers that last: else a folder has another one once the guest's kernel needed its memory for something else.
    "xino=on",
  ]
  return [{ driver: "overlayfs", source: "overlay", fstype: "overlay", options, mountPoint }]
}
