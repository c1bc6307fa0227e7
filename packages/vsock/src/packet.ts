import { VSOCK_HEADER_SIZE } from "./defs.js"

/**
 * `struct virtio_vsock_hdr`, decoded. One object is filled again and again on the hot path.
 *
 * @see virtio 1.3, section 5.10.6
 */
export interface VsockHeader {
  /** Context ids; one whose upper 32 bits are not zero shows as a number of at least 2^32. */
  srcCid: number
  dstCid: number
  srcPort: number
  dstPort: number
  /** Payload length in bytes. */
  len: number
  type: number
  op: number
  flags: number
  /** Size of the sender's receive buffer in bytes. */
  bufAlloc: number
  /** Free-running count of bytes the sender consumed. */
  fwdCnt: number
}

/** Where a packet's bytes come from: the readable part of a descriptor chain. */
export interface PacketSource {
  /** Copies bytes from `offset` on into `into`. @returns bytes copied */
  read(offset: number, into: Uint8Array): number
}

/** Where a packet's bytes go: the writable part of a descriptor chain. */
export interface PacketTarget {
  /** Copies `from` to `offset`. @returns bytes copied */
  write(offset: number, from: Uint8Array): number
}

// Byte offsets in struct virtio_vsock_hdr.
const SRC_CID_OFFSET = 0
const DST_CID_OFFSET = 8
const SRC_PORT_OFFSET = 16
const DST_PORT_OFFSET = 20
const LEN_OFFSET = 24
const TYPE_OFFSET = 28
const OP_OFFSET = 30
const FLAGS_OFFSET = 32
const BUF_ALLOC_OFFSET = 36
const FWD_CNT_OFFSET = 40

/** A header with every field zero. */
export function emptyHeader(): VsockHeader {
  return {
    srcCid: 0,
    dstCid: 0,
    srcPort: 0,
    dstPort: 0,
    len: 0,
    type: 0,
    op: 0,
    flags: 0,
    bufAlloc: 0,
    fwdCnt: 0,
  }
}

/**
 * A 44-byte buffer with the codec over it. A device owns one: headers are copied out of guest memory into
 * it once, and only the copy is looked at.
 *
 * @example
 * ```ts
 * const buffer = new HeaderBuffer()
 * if (chain.read(0, buffer.bytes) === buffer.bytes.length) buffer.decode(header)
 * ```
 */
export class HeaderBuffer {
  /** The encoded header. */
  readonly bytes: Uint8Array = new Uint8Array(VSOCK_HEADER_SIZE)
  readonly #view = new DataView(this.bytes.buffer)

  /** Reads `bytes` into `into`. */
  decode(into: VsockHeader): void {
    const view = this.#view
    into.srcCid = readCid(view, SRC_CID_OFFSET)
    into.dstCid = readCid(view, DST_CID_OFFSET)
    into.srcPort = view.getUint32(SRC_PORT_OFFSET, true)
    into.dstPort = view.getUint32(DST_PORT_OFFSET, true)
    into.len = view.getUint32(LEN_OFFSET, true)
    into.type = view.getUint16(TYPE_OFFSET, true)
    into.op = view.getUint16(OP_OFFSET, true)
    into.flags = view.getUint32(FLAGS_OFFSET, true)
    into.bufAlloc = view.getUint32(BUF_ALLOC_OFFSET, true)
    into.fwdCnt = view.getUint32(FWD_CNT_OFFSET, true)
  }

  /** Writes `from` into `bytes`. CIDs must be safe integers. */
  encode(from: VsockHeader): void {
    const view = this.#view
    writeCid(view, SRC_CID_OFFSET, from.srcCid)
    writeCid(view, DST_CID_OFFSET, from.dstCid)
    view.setUint32(SRC_PORT_OFFSET, from.srcPort, true)
    view.setUint32(DST_PORT_OFFSET, from.dstPort, true)
    view.setUint32(LEN_OFFSET, from.len, true)
    view.setUint16(TYPE_OFFSET, from.type, true)
    view.setUint16(OP_OFFSET, from.op, true)
    view.setUint32(FLAGS_OFFSET, from.flags, true)
    view.setUint32(BUF_ALLOC_OFFSET, from.bufAlloc, true)
    view.setUint32(FWD_CNT_OFFSET, from.fwdCnt, true)
  }
}

/** Inexact from 2^53 on, which no comparison with a valid (32-bit) CID can tell and none needs to. */
function readCid(view: DataView, offset: number): number {
  return view.getUint32(offset + 4, true) * 0x1_0000_0000 + view.getUint32(offset, true)
}

function writeCid(view: DataView, offset: number, cid: number): void {
  view.setUint32(offset, cid % 0x1_0000_0000, true)
  view.setUint32(offset + 4, Math.floor(cid / 0x1_0000_0000), true)
}
