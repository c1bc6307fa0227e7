/** Values at the edges of integer types: where parsers and counters go wrong. */
const EDGES = [
  0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 255, 256, 511, 512, 513, 4095, 4096, 4097, 0x7fff, 0x8000, 0xffff,
  0x10000, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, 0xffff_ffff,
] as const

/**
 * The generator behind every case: sfc32, seeded by the seed, the target's name and the number of the case, so
 * that any case can be made again alone.
 */
export class Random {
  #a: number
  #b: number
  #c: number
  #counter = 1

  constructor(seed: number, name: string, index: number) {
    this.#a = seed | 0
    this.#b = hash(name)
    this.#c = index | 0
    for (let i = 0; i < 12; i++) this.u32()
  }

  /** 0 to 2^32 - 1. */
  u32(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#counter) | 0
    this.#counter = (this.#counter + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0
    return sum >>> 0
  }

  /** 0 to `limit - 1`, for limits far below 2^32. */
  below(limit: number): number {
    return this.u32() % limit
  }

  /** `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1)
  }

  /** True once in `n`. */
  oneIn(n: number): boolean {
    return this.below(n) === 0
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!
  }

  /** `count` values of `make`. */
  list<T>(count: number, make: (index: number) => T): T[] {
    return Array.from({ length: count }, (_, index) => make(index))
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    for (let i = 0; i < length; i++) bytes[i] = this.u32()
    return bytes
  }

  /** A u32 that is often an edge, or next to one. */
  edge(): number {
    if (this.oneIn(4)) return this.u32()
    return (this.pick(EDGES) + (this.oneIn(4) ? this.between(-2, 2) : 0)) >>> 0
  }

  /** A u64 that is often an edge. */
  edge64(): bigint {
    const high = this.oneIn(3) ? this.edge() : this.pick([0, 0, 0, 1, 0x20_0000, 0x1f_ffff, 0xffff_ffff])
    return (BigInt(high) << 32n) | BigInt(this.edge())
  }
}

function hash(text: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  return h
}

/** `bytes` with up to `most` small damages: flipped, set, cut out, doubled, or inserted bytes. */
export function mutate(random: Random, bytes: Uint8Array, most = 4): Uint8Array {
  let result = bytes
  for (let left = random.below(most + 1); left > 0 && result.length > 0; left--)
    result = damage(random, result)
  return result
}

function damage(random: Random, bytes: Uint8Array): Uint8Array {
  const at = random.below(bytes.length)
  const length = Math.min(bytes.length - at, 1 + random.below(random.pick([1, 4, 16, 600])))
  const copy = bytes.slice()
  switch (random.below(7)) {
    case 0:
      copy[at] = copy[at]! ^ (1 << random.below(8))
      return copy
    case 1:
      copy[at] = random.pick([0, 0xff, 0x7f, 0x80, random.u32()])
      return copy
    case 2:
      if (copy.length < 4) return copy
      new DataView(copy.buffer).setUint32(
        Math.max(0, Math.min(at, copy.length - 4)),
        random.edge(),
        random.oneIn(2),
      )
      return copy
    case 3:
      return join(bytes.subarray(0, at), bytes.subarray(at + length))
    case 4:
      return join(bytes.subarray(0, at), bytes.subarray(at, at + length), bytes.subarray(at))
    case 5:
      return join(bytes.subarray(0, at), random.bytes(length), bytes.subarray(at))
    default:
      return copy.subarray(0, at)
  }
}

/** One array of several. */
export function join(...parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}
