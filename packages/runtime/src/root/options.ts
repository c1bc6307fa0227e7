import { statSync } from "node:fs"
import { resolve } from "node:path"
import { SandboxError } from "../errors.js"

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
