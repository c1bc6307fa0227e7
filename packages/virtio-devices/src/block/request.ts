import type { DescriptorChain } from "../queue/chain.js"
import * as defs from "./defs.js"

/** Most data bytes in one request. Linux asks for a few MiB at most; more only serves to hold up the host. */
export const MAX_REQUEST_BYTES = 64 * 2 ** 20
/** Most ranges in one DISCARD or WRITE_ZEROES, as `max_discard_seg` says. */
export const MAX_DISCARD_SEGMENTS = 16
/** Most sectors in one range: 1 GiB, which a file system frees or zeroes in bounded time. */
export const MAX_DISCARD_SECTORS = 2 ** 21

/** What a request asks for; `failed` has its status already. */
export type RequestKind = "read" | "write" | "flush" | "get-id" | "discard" | "write-zeroes" | "failed"

/** The disk as far as a request needs to know it. */
export interface DiskLimits {
  /** Capacity in sectors of 512 bytes. */
  readonly sectors: number
  readonly readOnly: boolean
  /** DISCARD and WRITE_ZEROES were offered and accepted. */
  readonly discard: boolean
}

/** One range of DISCARD or WRITE_ZEROES, in sectors. */
export interface SectorRange {
  readonly sector: number
  readonly sectors: number
  /** WRITE_ZEROES may give the space back. */
  readonly unmap: boolean
}

const TWO_32 = 2 ** 32

/**
 * Reads requests out of chains and judges them against the disk. One object serves a device; its fields hold
 * the last request, so parsing allocates nothing.
 *
 * ```
 *  readable: type u32 | reserved u32 | sector u64 | data (write, discard, write-zeroes)
 *  writable: data (read, get-id) | status u8
 * ```
 *
 * @see virtio 1.3, section 5.2.6
 */
export class RequestParser {
  kind: RequestKind = "failed"
  /** First sector of a read or write. */
  sector = 0
  /** Data bytes. */
  length = 0
  /** Status of a failed request. */
  status: number = defs.VIRTIO_BLK_S_IOERR
  /** The header, copied out of guest memory once. */
  readonly #header = new Uint8Array(defs.REQUEST_HEADER_SIZE)
  readonly #words = new Uint32Array(this.#header.buffer)

  /** Fills the fields from `chain`. */
  parse(chain: DescriptorChain, disk: DiskLimits): RequestKind {
    if (chain.read(0, this.#header) !== defs.REQUEST_HEADER_SIZE) return this.#fail(defs.VIRTIO_BLK_S_IOERR)
    switch (this.#words[0]) {
      case defs.VIRTIO_BLK_T_IN:
        return this.#data("read", chain.writableLength - 1, disk)
      case defs.VIRTIO_BLK_T_OUT:
        if (disk.readOnly) return this.#fail(defs.VIRTIO_BLK_S_IOERR)
        return this.#data("write", chain.readableLength - defs.REQUEST_HEADER_SIZE, disk)
      case defs.VIRTIO_BLK_T_FLUSH:
        if (disk.readOnly) return this.#fail(defs.VIRTIO_BLK_S_IOERR)
        return this.#accept("flush", 0)
      case defs.VIRTIO_BLK_T_GET_ID:
        return this.#accept("get-id", chain.writableLength - 1)
      case defs.VIRTIO_BLK_T_DISCARD:
        return this.#ranges("discard", chain, disk)
      case defs.VIRTIO_BLK_T_WRITE_ZEROES:
        return this.#ranges("write-zeroes", chain, disk)
      default:
        return this.#fail(defs.VIRTIO_BLK_S_UNSUPP)
    }
  }

  /**
   * The ranges of the DISCARD or WRITE_ZEROES just parsed, or undefined with `status` set: a sector beyond the
   * disk, too many sectors, flags that do not belong.
   */
  ranges(chain: DescriptorChain, disk: DiskLimits): SectorRange[] | undefined {
    const view = new DataView(new ArrayBuffer(defs.REQUEST_HEADER_SIZE + this.length))
    chain.read(0, new Uint8Array(view.buffer))
    const ranges: SectorRange[] = []
    for (let at = defs.REQUEST_HEADER_SIZE; at < view.byteLength; at += defs.DISCARD_SEGMENT_SIZE) {
      const sector = view.getUint32(at + 4, true) * TWO_32 + view.getUint32(at, true)
      const sectors = view.getUint32(at + 8, true)
      const flags = view.getUint32(at + 12, true)
      const allowed = this.kind === "discard" ? 0 : defs.VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
      if ((flags & ~allowed) !== 0) {
        this.#fail(defs.VIRTIO_BLK_S_UNSUPP)
        return undefined
      }
      if (sectors > MAX_DISCARD_SECTORS || sector > disk.sectors || sectors > disk.sectors - sector) {
        this.#fail(defs.VIRTIO_BLK_S_IOERR)
        return undefined
      }
      if (sectors > 0) ranges.push({ sector, sectors, unmap: flags !== 0 || this.kind === "discard" })
    }
    return ranges
  }

  #data(kind: "read" | "write", length: number, disk: DiskLimits): RequestKind {
    // Not exact above 2^53, but then larger than any capacity all the same.
    const sector = this.#words[3]! * TWO_32 + this.#words[2]!
    if (length <= 0 || length % defs.SECTOR_SIZE !== 0 || length > MAX_REQUEST_BYTES) {
      return this.#fail(defs.VIRTIO_BLK_S_IOERR)
    }
    if (sector >= disk.sectors || length / defs.SECTOR_SIZE > disk.sectors - sector) {
      return this.#fail(defs.VIRTIO_BLK_S_IOERR)
    }
    this.sector = sector
    return this.#accept(kind, length)
  }

  #ranges(kind: "discard" | "write-zeroes", chain: DescriptorChain, disk: DiskLimits): RequestKind {
    if (disk.readOnly) return this.#fail(defs.VIRTIO_BLK_S_IOERR)
    if (!disk.discard) return this.#fail(defs.VIRTIO_BLK_S_UNSUPP)
    const length = chain.readableLength - defs.REQUEST_HEADER_SIZE
    const count = length / defs.DISCARD_SEGMENT_SIZE
    if (count < 1 || count > MAX_DISCARD_SEGMENTS || !Number.isInteger(count)) {
      return this.#fail(defs.VIRTIO_BLK_S_IOERR)
    }
    return this.#accept(kind, length)
  }

  #accept(kind: RequestKind, length: number): RequestKind {
    this.kind = kind
    this.length = length
    return kind
  }

  #fail(status: number): RequestKind {
    this.kind = "failed"
    this.status = status
    return "failed"
  }
}
