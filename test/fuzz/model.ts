/**
 * A second opinion on split rings: the walk of virtio 1.3, section 2.7, written from the text in the plainest
 * way, one byte read at a time and all arithmetic in `bigint`. It shares no code with the packages; the fuzz
 * tests hold `SplitQueue` against it.
 */

/** Guest memory as the model sees it: regions of bytes. */
export interface ModelRegion {
  readonly start: number
  readonly bytes: Uint8Array
}

/** The three parts of a ring and what was negotiated. */
export interface ModelConfig {
  readonly size: number
  readonly desc: number
  readonly driver: number
  readonly device: number
  readonly indirect: boolean
  readonly eventIdx: boolean
  readonly availIndex: number
  readonly usedIndex: number
}

/** A piece of a buffer: one region, one direction. */
export interface ModelSegment {
  readonly address: number
  readonly length: number
  readonly writable: boolean
}

/** A buffer that the driver made available. */
export interface ModelChain {
  readonly head: number
  readonly segments: readonly ModelSegment[]
  readonly readable: number
  readonly writable: number
}

/** The driver broke the rules. */
export class ModelFault extends Error {
  override readonly name = "ModelFault"
}

const DESC_BYTES = 16
const F_NEXT = 1
const F_WRITE = 2
const F_INDIRECT = 4
const F_NO_INTERRUPT = 1
const F_NO_NOTIFY = 1
const WRAP = 0x10000
/** 2.7.5: "Drivers MUST NOT add a descriptor chain longer than 2^32 bytes in total". */
const MAX_BYTES = 1n << 32n
/** Not of the specification: the longest chain that the implementation takes, in descriptors and in segments. */
export const MAX_SEGMENTS = 1024
/** Nor this: an indirect table holds no more entries than a chain may have, wherever it lies; so do packed rings. */
const MAX_TABLE_ENTRIES = BigInt(MAX_SEGMENTS)

interface Descriptor {
  readonly address: bigint
  readonly length: number
  readonly flags: number
  readonly next: number
}

/** A table of descriptors: the ring's own, or an indirect one. */
interface Table {
  readonly address: bigint
  readonly entries: number
}

/** The device's side of a split ring, as the specification tells it. */
export class ModelQueue {
  readonly #regions: readonly ModelRegion[]
  readonly #config: ModelConfig
  readonly #taken = new Set<number>()
  #lastAvail: number
  #used: number
  #published: number
  #silent = false

  constructor(regions: readonly ModelRegion[], config: ModelConfig) {
    this.#regions = regions
    this.#config = config
    this.#lastAvail = config.availIndex
    this.#used = config.usedIndex
    this.#published = config.usedIndex
  }

  get usedIndex(): number {
    return this.#used
  }

  /** 2.7.6 and 2.7.13.3: takes the next entry of the available ring. @throws ModelFault */
  pop(seenAvail: number): ModelChain | undefined {
    const { size, driver } = this.#config
    const waiting = (seenAvail - this.#lastAvail + WRAP) % WRAP
    if (waiting === 0) return undefined
    if (waiting > size) throw new ModelFault("more available than the ring holds")
    const head = this.#u16(BigInt(driver) + 4n + 2n * BigInt(this.#lastAvail % size))
    if (head >= size) throw new ModelFault("head outside the table")
    if (this.#taken.has(head)) throw new ModelFault("head in flight")
    const chain = this.#walk(head)
    this.#taken.add(head)
    this.#lastAvail = (this.#lastAvail + 1) % WRAP
    return chain
  }

  /** `idx` of the available ring as it is now. */
  availableIndex(): number {
    return this.#u16(BigInt(this.#config.driver) + 2n)
  }

  /** 2.7.8: puts a chain on the used ring. @returns where its entry has to stand, and what it has to hold */
  push(head: number, written: number): { readonly at: number; readonly id: number; readonly length: number } {
    const at = this.#config.device + 4 + 8 * (this.#used % this.#config.size)
    this.#taken.delete(head)
    this.#used = (this.#used + 1) % WRAP
    return { at, id: head, length: written }
  }

  /** 2.7.7.2 and 2.7.10: whether showing what was pushed calls for an interrupt. */
  publish(): boolean {
    const { size, driver, eventIdx } = this.#config
    const before = this.#published
    this.#published = this.#used
    if (before === this.#used) return false
    if (!eventIdx) return (this.#u16(BigInt(driver)) & F_NO_INTERRUPT) === 0
    const event = this.#u16(BigInt(driver) + 4n + 2n * BigInt(size))
    // "used_event" was passed: one of the entries before..used-1 has that index.
    for (let index = before; index !== this.#used; index = (index + 1) % WRAP)
      if (index === event) return true
    return false
  }

  silence(): void {
    this.#silent = true
  }

  listen(): void {
    this.#silent = false
  }

  /** 2.7.10: what `flags` of the used ring has to hold; undefined when it means nothing. */
  get usedFlags(): number | undefined {
    if (this.#config.eventIdx) return undefined
    return this.#silent ? F_NO_NOTIFY : 0
  }

  /** Where the device looks next: `avail_event` after it asked for notifications. */
  get lastAvail(): number {
    return this.#lastAvail
  }

  #walk(head: number): ModelChain {
    const { size, desc } = this.#config
    const segments: ModelSegment[] = []
    let table: Table = { address: BigInt(desc), entries: size }
    let left = Math.min(size, MAX_SEGMENTS)
    let indirect = false
    let index = head
    for (;;) {
      if (left === 0) throw new ModelFault("chain does not end")
      left--
      const descriptor = this.#descriptor(table, index)
      if ((descriptor.flags & F_INDIRECT) !== 0) {
        if (indirect) throw new ModelFault("indirect in indirect")
        table = this.#indirectTable(descriptor)
        left = Math.min(table.entries, MAX_SEGMENTS)
        indirect = true
        index = 0
        continue
      }
      this.#addBuffer(segments, descriptor)
      if ((descriptor.flags & F_NEXT) === 0) return summary(head, segments)
      if (descriptor.next >= table.entries) throw new ModelFault("next outside the table")
      index = descriptor.next
    }
  }

  /** 2.7.5.3. */
  #indirectTable({ address, length, flags }: Descriptor): Table {
    if (!this.#config.indirect) throw new ModelFault("indirect was not negotiated")
    if ((flags & F_NEXT) !== 0) throw new ModelFault("indirect with next")
    if (length === 0 || length % DESC_BYTES !== 0) throw new ModelFault("indirect length")
    const entries = BigInt(length / DESC_BYTES)
    if (entries > MAX_TABLE_ENTRIES) throw new ModelFault("indirect table too long")
    this.#pieces(address, length)
    return { address, entries: Number(entries) }
  }

  #addBuffer(segments: ModelSegment[], { address, length, flags }: Descriptor): void {
    if (length === 0) return
    const writable = (flags & F_WRITE) !== 0
    if (!writable && segments.some(segment => segment.writable))
      throw new ModelFault("readable after writable")
    for (const piece of this.#pieces(address, length)) segments.push({ ...piece, writable })
    if (segments.length > MAX_SEGMENTS) throw new ModelFault("too many segments")
    const total = segments.reduce((sum, segment) => sum + BigInt(segment.length), 0n)
    if (total > MAX_BYTES) throw new ModelFault("too many bytes")
  }

  /** The parts of `[address, address + length)`, region by region. @throws ModelFault when a byte is outside */
  #pieces(address: bigint, length: number): { address: number; length: number }[] {
    const pieces: { address: number; length: number }[] = []
    const end = address + BigInt(length)
    for (let at = address; at < end; ) {
      const region = this.#regionOf(at)
      const regionEnd = BigInt(region.start) + BigInt(region.bytes.length)
      const stop = regionEnd < end ? regionEnd : end
      pieces.push({ address: Number(at), length: Number(stop - at) })
      at = stop
    }
    return pieces
  }

  #regionOf(at: bigint): ModelRegion {
    for (const region of this.#regions) {
      const start = BigInt(region.start)
      if (at >= start && at < start + BigInt(region.bytes.length)) return region
    }
    throw new ModelFault("address outside memory")
  }

  #descriptor(table: Table, index: number): Descriptor {
    const at = table.address + BigInt(index * DESC_BYTES)
    const low = BigInt(this.#u32(at))
    const high = BigInt(this.#u32(at + 4n))
    return {
      address: (high << 32n) | low,
      length: this.#u32(at + 8n),
      flags: this.#u16(at + 12n),
      next: this.#u16(at + 14n),
    }
  }

  #u8(at: bigint): number {
    const region = this.#regionOf(at)
    return region.bytes[Number(at - BigInt(region.start))]!
  }

  #u16(at: bigint): number {
    return this.#u8(at) + 0x100 * this.#u8(at + 1n)
  }

  #u32(at: bigint): number {
    return this.#u16(at) + WRAP * this.#u16(at + 2n)
  }
}

function summary(head: number, segments: readonly ModelSegment[]): ModelChain {
  const bytes = (writable: boolean) =>
    segments.reduce((sum, segment) => sum + (segment.writable === writable ? segment.length : 0), 0)
  return { head, segments, readable: bytes(false), writable: bytes(true) }
}
