import { statSync } from "node:fs"
import { resolve } from "node:path"
import type { StoredImage } from "@ts-vmm/oci-image"
import { SandboxError } from "../errors.js"
import type { SandboxOptions } from "../options.js"

/** How a guest has its image: as a disk (virtio-blk), or as memory (virtio-pmem). */
export type ImageDevice = "blk" | "pmem"

/** An image that has yet to be found. */
export interface ImageConfig {
  readonly kind: "image"
  readonly image: string | StoredImage
  readonly device: ImageDevice
}

/**
 * A root file system that is no image. It says nothing about how to run: a command is the caller's, `/bin/sh` without
 * one, as root, in `/`.
 */
export interface SandboxRootfs {
  /**
   * `folder`: a folder of the host. `disk`: a raw disk image or a block device of the host that is one ext4 file system,
   * without partitions; one that somebody writes to is refused, and so is one that was not unmounted, unless it is
   * `writable`.
   */
  readonly kind: "folder" | "disk"
  /** Where it is on the host. A disk's path must not be a symbolic link. */
  readonly path: string
  /**
   * What containers write goes to it and stays, and they share it. Then there is no `diff` and no `commit`, and the
   * agent leaves mount points (`/proc`, `/dev`, …), `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf` in it. Default
   * false: nothing in it changes, what a container writes goes to the sandbox's storage and is gone with it.
   */
  readonly writable?: boolean
}

/** A {@link SandboxRootfs} that was checked. */
export type RootfsConfig = Required<SandboxRootfs>

/** What the root is to be. */
export type RootConfig = ImageConfig | RootfsConfig

/** @throws SandboxError `invalid-argument` */
export function checkRoot(options: SandboxOptions): RootConfig {
  const { image, rootfs, storage, lazy, imageDevice } = options
  if (image !== undefined && rootfs !== undefined) throw invalid("image and rootfs exclude each other")
  if (image !== undefined) return { kind: "image", image, device: checkImageDevice(options) }
  if (rootfs === undefined) throw invalid("a sandbox needs an image or a rootfs")
  if (lazy) throw invalid("lazy is for images: a rootfs is there already")
  if (imageDevice !== undefined) throw invalid("imageDevice is for images, not for a rootfs")
  if (rootfs.writable && storage)
    throw invalid(
      "storage is for what containers write over their root; with a writable rootfs there is none",
    )
  return checkRootfs(rootfs)
}

function checkImageDevice({ imageDevice = "blk", lazy }: SandboxOptions): ImageDevice {
  if (imageDevice !== "blk" && imageDevice !== "pmem")
    throw invalid(`unknown imageDevice "${imageDevice}": use blk or pmem`)
  // Nobody is asked before a page of memory is read.
  if (imageDevice === "pmem" && lazy)
    throw invalid("imageDevice pmem needs all of the image: lazy is for blk")
  return imageDevice
}

/** @throws SandboxError `invalid-argument` */
export function checkRootfs(rootfs: SandboxRootfs): RootfsConfig {
  const { kind, path, writable = false } = rootfs
  if (kind !== "folder" && kind !== "disk")
    throw invalid(`unknown kind of root file system "${kind}": use folder or disk`)
  if (path === "" || path.includes("\0"))
    throw invalid("the path of the root file system is empty or has a NUL")
  const stat = statSync(path, { throwIfNoEntry: false })
  if (!stat) throw invalid(`the root file system ${path} does not exist`)
  if (kind === "folder" && !stat.isDirectory()) throw invalid(`the root file system ${path} is not a folder`)
  if (kind === "disk" && !stat.isFile() && !stat.isBlockDevice())
    throw invalid(`the root file system ${path} is neither a disk image nor a block device`)
  return { kind, path: resolve(path), writable }
}

function invalid(message: string): SandboxError {
  return new SandboxError("invalid-argument", message)
}
