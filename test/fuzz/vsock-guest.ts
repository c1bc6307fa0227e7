import { ok } from "node:assert"
import { emptyHeader, HeaderBuffer, type VsockHeader } from "@ts-vmm/vsock"
import { BUFFERS, type DeviceRig, type Piece } from "./device-rig.js"

export const GUEST_CID = 3
export const HOST_CID = 2
export const OP = {
  request: 1,
  response: 2,
  rst: 3,
  shutdown: 4,
  rw: 5,
  creditUpdate: 6,
  creditRequest: 7,
} as const
const HEADER = 44
/** Receive buffers lie first, sent packets behind them. */
const RX_BUFFERS = BUFFERS
const RX_STRIDE = 0x1000
const RX_COUNT = 24
const TX_BUFFERS = BUFFERS + RX_COUNT * RX_STRIDE
const TX_STRIDE = 0x800
const TX_COUNT = 16

/** What a guest that keeps books knows about one pair of ports. */
interface Book {
  /** Bytes that came on the connection there is now, */
  received: number
  /** how many of them the guest said it consumed, at any time, */
  readonly claims: Set<number>
  /** and the largest buffer it ever spoke of: packets cross, so the device may go by an earlier word. */
  room: number
  /** A REQUEST is on its way: packets may still be of the connection before. */
  doubtful: boolean
}

/**
 * The guest's end of a vsock device: sends any header, posts receive buffers when told to, and holds every
 * packet of the device against the credit it has ever given.
 */
export class VsockGuest {
  readonly #rig: DeviceRig
  readonly #codec = new HeaderBuffer()
  readonly #books = new Map<string, Book>()
  #posted = new Map<number, number>()
  #freeRx = Array.from({ length: RX_COUNT }, (_, i) => i)
  #tx = 0
  #inFlight = 0
  /** Host ports of connections that the host asked for, most recent last. */
  readonly hostPorts: number[] = []

  constructor(rig: DeviceRig) {
    this.#rig = rig
  }

  /** Sends a packet; what is behind the header is `payload`. Nothing has to fit together. */
  send(fields: Partial<VsockHeader>, payload: Uint8Array): void {
    this.receive()
    if (this.#inFlight >= TX_COUNT) return
    const header = {
      ...emptyHeader(),
      srcCid: GUEST_CID,
      dstCid: HOST_CID,
      type: 1,
      bufAlloc: 4096,
      len: payload.length,
      ...fields,
    }
    this.#note(header)
    this.#codec.encode(header)
    const at = TX_BUFFERS + TX_STRIDE * (this.#tx++ % TX_COUNT)
    const pieces: Piece[] = [{ at, length: HEADER, writable: false, bytes: this.#codec.bytes.slice() }]
    if (payload.length > 0)
      pieces.push({ at: at + 64, length: payload.length, writable: false, bytes: payload })
    if (this.#rig.post(1, pieces) === undefined) return
    this.#inFlight++
    this.#rig.kick(1)
  }

  /** Posts receive buffers of `size` bytes. */
  offer(count: number, size: number): void {
    for (let i = 0; i < count; i++) {
      const slot = this.#freeRx.pop()
      if (slot === undefined) break
      const piece = {
        at: RX_BUFFERS + slot * RX_STRIDE,
        length: Math.min(size, RX_STRIDE),
        writable: true,
        bytes: new Uint8Array(),
      }
      const id = this.#rig.post(0, [piece])
      if (id === undefined) break
      this.#posted.set(id, slot)
    }
    this.#rig.kick(0)
  }

  /** Takes what the device sent. */
  receive(): void {
    for (let used = this.#rig.poll(0); used; used = this.#rig.poll(0)) {
      const slot = this.#posted.get(used.id)
      ok(slot !== undefined, "a receive buffer came back twice")
      this.#posted.delete(used.id)
      this.#freeRx.push(slot)
      ok(used.length >= HEADER, "packet without a header")
      this.#codec.bytes.set(this.#rig.read(RX_BUFFERS + slot * RX_STRIDE, HEADER))
      const header = emptyHeader()
      this.#codec.decode(header)
      this.#check(header, used.length)
    }
    while (this.#rig.poll(1)) this.#inFlight--
  }

  /** How far the guest consumed, as an honest header says it. */
  consume(hostPort: number, guestPort: number): number {
    const book = this.#books.get(`${hostPort}:${guestPort}`)
    return (book?.received ?? 0) >>> 0
  }

  #note({ op, srcPort, dstPort, srcCid, dstCid, bufAlloc, fwdCnt }: VsockHeader): void {
    if (srcCid !== GUEST_CID || dstCid !== HOST_CID) return
    const book = this.#book(dstPort, srcPort)
    book.room = Math.max(book.room, bufAlloc)
    if (op === OP.request) book.doubtful = true
    book.claims.add(fwdCnt)
  }

  #check(header: VsockHeader, used: number): void {
    ok(header.len === used - HEADER, "length of a packet and of its buffer differ")
    ok(header.dstCid === GUEST_CID, "packet for another guest")
    const book = this.#book(header.srcPort, header.dstPort)
    if (header.op === OP.rw) {
      ok(header.len > 0, "data packet without data")
      book.received += header.len
      // Counts of bytes that never came are lies, and give no credit.
      const forwarded = Math.max(0, ...[...book.claims].filter(claim => claim <= book.received))
      const under = book.received - forwarded
      ok(book.doubtful || under <= book.room, `credit exceeded: ${under} of ${book.room}`)
    } else if (header.op <= OP.rst) {
      if (header.op === OP.request) this.hostPorts.push(header.srcPort)
      book.received = 0
      book.claims.clear()
      book.doubtful = false
    }
    ok(header.op >= OP.request && header.op <= OP.creditRequest, `packet with operation ${header.op}`)
  }

  #book(hostPort: number, guestPort: number): Book {
    const key = `${hostPort}:${guestPort}`
    let book = this.#books.get(key)
    if (!book) {
      book = { received: 0, claims: new Set(), room: 0, doubtful: false }
      this.#books.set(key, book)
    }
    return book
  }
}
