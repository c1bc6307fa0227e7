import { closeSync, fstatSync, openSync, realpathSync } from "node:fs"
import { basename, dirname } from "node:path"
import * as abi from "./host-abi.js"

const { DIRENT64, STATX } = abi
const DT_DIR = 4
const DT_REG = 8
const FOLDER_MODE = abi.S_IFDIR | 0o755
/** What a folder tells of its other files: how many they are, and when they came and went. */
const TELLING = [STATX.size, STATX.blocks, STATX.accessed, STATX.modified, STATX.changed] as const

/** What is shared: a folder, or the one that holds a single file. */
export interface Shared {
  /** O_PATH. */
  readonly folder: number
  readonly single?: SingleFile
}

/**
 * A single shared file. The guest sees it in a folder, which stands for the host's folder around it and tells nothing
 * of that.
 */
export class SingleFile {
  /** As the guest sees it. */
  readonly name: Uint8Array
  /** Its name on the host, another where the path given was a symbolic link. */
  readonly target: Uint8Array

  constructor(name: string, target: string) {
    this.name = Buffer.from(name)
    this.target = Buffer.from(target)
  }

  /** Whether this is the one name there is. */
  isNamed(name: Uint8Array): boolean {
    return Buffer.compare(name, this.name) === 0
  }

  /** Struct statx of the host's folder becomes that of the guest's. */
  disguise(statx: DataView): void {
    statx.setUint16(STATX.mode, FOLDER_MODE, true)
    statx.setUint32(STATX.links, 2, true)
    for (const offset of TELLING) statx.setBigUint64(offset, 0n, true)
    for (const time of [STATX.accessed, STATX.modified, STATX.changed])
      statx.setUint32(time + abi.STATX_NSEC, 0, true)
  }

  /** Entries of the guest's folder from `position` on. @returns bytes of struct linux_dirent64 in `into` */
  entries(position: bigint, into: Uint8Array): number {
    const all = [
      [".", DT_DIR],
      ["..", DT_DIR],
      [this.name, DT_REG],
    ] as const
    if (position < 0n || position >= all.length) return 0
    const view = new DataView(into.buffer, into.byteOffset)
    let at = 0
    for (let index = Number(position); index < all.length; index++) {
      const [name, type] = all[index] as (typeof all)[number]
      const bytes = typeof name === "string" ? Buffer.from(name) : name
      const size = (DIRENT64.name + bytes.length + 8) & ~7
      into.fill(0, at, at + size)
      view.setBigUint64(at + DIRENT64.inode, BigInt(index + 1), true)
      view.setBigInt64(at + DIRENT64.offset, BigInt(index + 1), true)
      view.setUint16(at + DIRENT64.recordLength, size, true)
      into[at + DIRENT64.type] = type
      into.set(bytes, at + DIRENT64.name)
      at += size
    }
    return at
  }
}

/** @throws the error of open(2); Error for what is neither a folder nor a regular file */
export function openShared(path: string): Shared {
  const real = realpathSync(path)
  const fd = openSync(real, abi.O_PATH | abi.O_NOFOLLOW)
  const type = fstatSync(fd).mode & abi.S_IFMT
  if (type === abi.S_IFDIR) return { folder: fd }
  closeSync(fd)
  if (type !== abi.S_IFREG) throw new Error(`${path} is neither a folder nor a regular file`)
  const folder = openSync(dirname(real), abi.O_PATH | abi.O_DIRECTORY)
  return { folder, single: new SingleFile(basename(path), basename(real)) }
}
