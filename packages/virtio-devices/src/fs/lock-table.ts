import { constants } from "node:os"
import { closeFd } from "@ts-vmm/native"
import * as abi from "./host-abi.js"
import type { Inode } from "./inode-table.js"
import type { SharedFolder } from "./shared-folder.js"

const { EAGAIN, ENOLCK } = constants.errno
/** Whom locks can belong to at a time: each is an fd of this process. */
const MAX_OWNERS = 4096
/** OFFSET_MAX: a range up to here has no end. */
const TO_THE_END = 2n ** 63n - 1n

/** struct fuse_file_lock: a range of a file, its last byte included, and what is wanted of it. */
export interface RangeLock {
  readonly start: bigint
  readonly end: bigint
  /** F_RDLCK, F_WRLCK or F_UNLCK. */
  readonly type: number
}

/** What an owner has of a file. */
interface Owned {
  readonly fd: number
  /** Open files that it took locks through. */
  readonly handles: Set<number>
}

/** Whether there can be such a lock: ranges are signed in the kernel. */
export function isRangeLock({ start, end, type }: RangeLock): boolean {
  return start >= 0n && end >= start && type <= abi.F_UNLCK
}

/**
 * Locks of byte ranges that the guest's processes have, as the host sees them: each owner has an open file description
 * of its own for a file, whose locks (`F_OFD_SETLK`) keep out other owners, other guests and the host's programs.
 *
 * @see fcntl(2), "Open file description locks"
 */
export class LockTable {
  readonly #folder: SharedFolder
  /** By node id, then by owner. */
  readonly #owners = new Map<number, Map<bigint, Owned>>()
  readonly #lock = new DataView(new ArrayBuffer(abi.FLOCK_SIZE))
  readonly #lockBytes = new Uint8Array(this.#lock.buffer)
  #size = 0

  constructor(folder: SharedFolder) {
    this.#folder = folder
  }

  /** Owners that have locks. */
  get size(): number {
    return this.#size
  }

  /**
   * Takes, changes or gives back a lock.
   *
   * @param handle - the open file that this was asked through
   * @returns 0; `-EAGAIN` when somebody else has it; another negative errno
   */
  set(inode: Inode, handle: number, owner: bigint, lock: RangeLock): number {
    const known = this.#owners.get(inode.id)?.get(owner)
    if (lock.type === abi.F_UNLCK && known === undefined) return 0
    if (known === undefined && this.#size >= MAX_OWNERS) return -ENOLCK
    const fd = known?.fd ?? this.#folder.openForLocks(inode)
    if (fd < 0) return fd
    this.#fill(lock)
    const result = this.#folder.lockRange(fd, abi.F_OFD_SETLK, this.#lockBytes)
    if (known === undefined) this.#keepIf(result >= 0, inode.id, owner, { fd, handles: new Set([handle]) })
    else known.handles.add(handle)
    if (lock.type === abi.F_UNLCK && isWhole(lock)) this.release(inode.id, owner)
    return result
  }

  /** Who is in the way of a lock. @returns that lock, `F_UNLCK` when nobody is; or a negative errno */
  test(inode: Inode, owner: bigint, lock: RangeLock): RangeLock | number {
    const known = this.#owners.get(inode.id)?.get(owner)
    const fd = known?.fd ?? this.#folder.openForLocks(inode)
    if (fd < 0) return fd
    this.#fill(lock)
    const result = this.#folder.lockRange(fd, abi.F_OFD_GETLK, this.#lockBytes)
    if (known === undefined) closeFd(fd)
    return result < 0 ? result : this.#found()
  }

  /** All that an owner has of a file, as closing any of its fds does it. */
  release(node: number, owner: bigint): void {
    const owners = this.#owners.get(node)
    const owned = owners?.get(owner)
    if (!owners || !owned) return
    owners.delete(owner)
    if (owners.size === 0) this.#owners.delete(node)
    this.#size--
    closeFd(owned.fd)
  }

  /**
   * An open file is there no more, and so for every process that had it. Whoever took locks through it has closed it,
   * which ends them all; locks of the open file itself (`F_OFD_SETLK` in the guest) end here, as no FLUSH names those.
   */
  releaseHandle(node: number, handle: number): void {
    for (const [owner, { handles }] of [...(this.#owners.get(node) ?? [])])
      if (handles.has(handle)) this.release(node, owner)
  }

  /** The guest knows the file no more. */
  forget(node: number): void {
    for (const owner of [...(this.#owners.get(node)?.keys() ?? [])]) this.release(node, owner)
  }

  /** All locks of everybody. */
  clear(): void {
    for (const node of [...this.#owners.keys()]) this.forget(node)
  }

  /** An fd without a lock is of no use: a guest that tries in vain must not use fds up. */
  #keepIf(isLocked: boolean, node: number, owner: bigint, owned: Owned): void {
    if (!isLocked) {
      closeFd(owned.fd)
      return
    }
    const owners = this.#owners.get(node) ?? new Map<bigint, Owned>()
    this.#owners.set(node, owners.set(owner, owned))
    this.#size++
  }

  /** struct flock; `l_pid` has to be 0. */
  #fill({ start, end, type }: RangeLock): void {
    this.#lockBytes.fill(0)
    this.#lock.setInt16(abi.FLOCK.type, type, true)
    this.#lock.setBigInt64(abi.FLOCK.start, start, true)
    this.#lock.setBigInt64(abi.FLOCK.length, end === TO_THE_END ? 0n : end - start + 1n, true)
  }

  #found(): RangeLock {
    const start = this.#lock.getBigInt64(abi.FLOCK.start, true)
    const length = this.#lock.getBigInt64(abi.FLOCK.length, true)
    return {
      start,
      end: length === 0n ? TO_THE_END : start + length - 1n,
      type: this.#lock.getInt16(abi.FLOCK.type, true),
    }
  }
}

function isWhole({ start, end }: RangeLock): boolean {
  return start === 0n && end === TO_THE_END
}

/** Somebody else has the lock. */
export const isTaken = (result: number): boolean => result === -EAGAIN
