import { spawn } from "node:child_process"
import { closeSync } from "node:fs"
import type { RateLimiter } from "@ts-vmm/virtio-devices"
import { BlockDevice, openFileBackend } from "@ts-vmm/virtio-devices/block"
import { SandboxError } from "../errors.js"
import { makeNamelessFile, type NamelessFile } from "./nameless-file.js"
import { reportWriteFailure } from "./write-failure.js"

/** The serial number by which the guest finds the disk that takes what containers write. */
export const STORAGE_SERIAL = "tsvmm-storage"

const MIB = 1024 * 1024
/** On Debian it is in a folder that is not in the PATH of ordinary users. */
const SEARCH_PATH = `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`
/** Of what mke2fs says, for an error. */
const MAX_WORDS = 500

/**
 * - The features are spelled out: mke2fs takes them from a file of the host otherwise.
 * - No journal: nothing of it outlives the sandbox.
 * - Bytes per inode: container file systems are many small files.
 */
const FEATURES =
  "none,sparse_super,filetype,dir_index,ext_attr,extent,flex_bg,uninit_bg,large_file,huge_file,dir_nlink,extra_isize,64bit"
const MKE2FS_OPTIONS: readonly string[] = [
  ...["-q", "-F", "-t", "ext4", "-b", "4096", "-i", "8192", "-I", "256", "-m", "0", "-O", FEATURES],
  // The file is zeroes already.
  ...["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"],
]
/** The number at which mke2fs inherits the file. */
const INHERITED_FD = 3

/** What {@link makeStorageDisk} makes. */
export interface StorageDisk {
  readonly device: BlockDevice
  close(): void
}

/** Where the disk is made. */
export interface StorageDiskOptions {
  readonly sizeMiB: number
  /** On whose file system it lies, if that can be. */
  readonly folder: string
  /** Where it lies otherwise: the sandbox's own folder. */
  readonly fallback: string
  /** Told once when the host could not write what the guest wrote. */
  readonly onFailure: (error: SandboxError) => void
  /** How fast it may be. Default: as fast as it is. */
  readonly limiter?: RateLimiter | undefined
  /** Name or path of the program. Default `mke2fs`. */
  readonly mke2fs?: string
}

/**
 * An empty ext4 file system on a disk that never takes more of the host than its size. It has no name on the host:
 * nothing is left when this process ends in whatever way.
 *
 * @throws SandboxError `hypervisor-unavailable` when mke2fs is not installed, `no-space`
 */
export async function makeStorageDisk(options: StorageDiskOptions): Promise<StorageDisk> {
  const { sizeMiB, folder, fallback } = options
  const file = makeFile(folder, fallback, sizeMiB * MIB)
  try {
    await makeFileSystem(file, options.mke2fs ?? "mke2fs")
    const disk = openFileBackend(`/proc/self/fd/${file.fd}`)
    const device = new BlockDevice(disk, {
      serial: STORAGE_SERIAL,
      ...(options.limiter ? { rateLimit: options.limiter } : {}),
      onWriteError: reportWriteFailure(file.folder, options.onFailure),
    })
    return { device, close: () => disk.close() }
  } finally {
    closeSync(file.fd)
  }
}

function makeFile(folder: string, fallback: string, size: number): NamelessFile {
  try {
    return makeNamelessFile(folder, fallback, size)
  } catch (cause) {
    throw new SandboxError(
      "no-space",
      `the disk for the sandbox cannot be made on the file system of ${folder}: ${(cause as Error).message}`,
      { cause },
    )
  }
}

function makeFileSystem(file: NamelessFile, program: string): Promise<void> {
  const child = spawn(program, [...MKE2FS_OPTIONS, `/proc/self/fd/${INHERITED_FD}`], {
    env: { PATH: SEARCH_PATH, LC_ALL: "C" },
    stdio: ["ignore", "ignore", "pipe", file.fd],
  })
  let words = ""
  child.stderr?.on("data", (bytes: Buffer) => {
    words = (words + bytes.toString("latin1")).slice(-MAX_WORDS)
  })
  return new Promise((resolve, reject) => {
    child.once("error", (error: NodeJS.ErrnoException) => {
      const what = error.code === "ENOENT" ? "mke2fs is not installed" : `mke2fs: ${error.message}`
      const message = `${what}: install the package e2fsprogs, or do without a disk for what containers write`
      reject(new SandboxError("hypervisor-unavailable", message, { cause: error }))
    })
    child.once("close", code => {
      if (code === 0) resolve()
      else
        reject(
          new SandboxError("no-space", `mke2fs cannot make a file system on ${file.folder}: ${words.trim()}`),
        )
    })
  })
}
