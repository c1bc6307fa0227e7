import { STATX, STATX_NSEC } from "./host-abi.js"
import type { Owners } from "./owners.js"
import { OUT_HEADER_SIZE } from "./protocol.js"

/** Most bytes of one answer beside the data of a read: a page of directory entries, or an extended attribute. */
export const MAX_REPLY_SIZE = 128 * 1024

/** In the order of struct fuse_attr. */
const TIMES = [STATX.accessed, STATX.modified, STATX.changed]

/** What an answer says of the request that it answers. */
export interface Answered {
  readonly uniqueLow: number
  readonly uniqueHigh: number
}

/** Where the body of an answer is put together, after its header. One object serves a device. */
export class FuseReply {
  readonly #whole = new Uint8Array(OUT_HEADER_SIZE + MAX_REPLY_SIZE)
  readonly #header = new DataView(this.#whole.buffer, 0, OUT_HEADER_SIZE)
  readonly #headerBytes = this.#whole.subarray(0, OUT_HEADER_SIZE)
  readonly bytes = this.#whole.subarray(OUT_HEADER_SIZE)
  readonly view = new DataView(this.#whole.buffer, OUT_HEADER_SIZE)

  /**
   * struct fuse_out_header.
   *
   * @param length - bytes of the body, wherever that is
   * @param inPlace - bytes of the body that are in {@link bytes}
   * @returns the header and those, for a chain; until the next one
   */
  head(task: Answered, error: number, length: number, inPlace: number): Uint8Array {
    const header = this.#header
    header.setUint32(0, OUT_HEADER_SIZE + length, true)
    header.setInt32(4, error, true)
    header.setUint32(8, task.uniqueLow, true)
    header.setUint32(12, task.uniqueHigh, true)
    return inPlace === 0 ? this.#headerBytes : this.#whole.subarray(0, OUT_HEADER_SIZE + inPlace)
  }

  /** Zeroes the first `size` bytes, which a structure of the guest's is then written over. */
  begin(size: number): void {
    this.bytes.fill(0, 0, size)
  }

  /** @param value - a whole number up to 2^53 */
  u64(offset: number, value: number): void {
    this.view.setUint32(offset, value % 2 ** 32, true)
    this.view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true)
  }

  /** struct fuse_attr from struct statx. */
  attributes(offset: number, statx: DataView, owners: Owners, flags: number): void {
    const { view } = this
    const copy32 = (to: number, at: number) => view.setUint32(offset + to, statx.getUint32(at, true), true)
    const copy64 = (to: number, at: number) => {
      copy32(to, at)
      copy32(to + 4, at + 4)
    }
    copy64(0, STATX.inode)
    copy64(8, STATX.size)
    copy64(16, STATX.blocks)
    for (let index = 0; index < TIMES.length; index++) {
      const time = TIMES[index] as number
      copy64(24 + index * 8, time)
      copy32(48 + index * 4, time + STATX_NSEC)
    }
    view.setUint32(offset + 60, statx.getUint16(STATX.mode, true), true)
    copy32(64, STATX.links)
    view.setUint32(offset + 68, owners.users.toGuest(statx.getUint32(STATX.uid, true)), true)
    view.setUint32(offset + 72, owners.groups.toGuest(statx.getUint32(STATX.gid, true)), true)
    view.setUint32(offset + 76, deviceNumber(statx), true)
    copy32(80, STATX.blockSize)
    view.setUint32(offset + 84, flags, true)
  }
}

/** The kernel's 32-bit form: 12 bits of major number between the low 8 and the high 12 of the minor. */
function deviceNumber(statx: DataView): number {
  const major = statx.getUint32(STATX.rdevMajor, true)
  const minor = statx.getUint32(STATX.rdevMinor, true)
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0
}
