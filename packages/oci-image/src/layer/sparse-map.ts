import { ImageError } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { TAR_BLOCK, tarNumber } from "./tar-header.js"

/** Bytes of a sparse file that the stream holds; everything between regions is zero. */
export interface SparseRegion {
  readonly offset: number
  readonly size: number
}

/**
 * The map of one sparse file while it is read: some of it is in headers, some in blocks before the content.
 *
 * @see GNU tar manual, "Storing Sparse Files"
 */
export interface SparseMap {
  readonly regions: SparseRegions
  /** Bytes of the file with its holes. */
  readonly realSize: number
  /** The file's name where the header holds a made-up one. */
  readonly name: string | undefined
  /** Whether another block of the stream belongs to the map. */
  readonly wantsBlock: boolean
  /** Whether such blocks count as part of the entry's size. */
  readonly inContent: boolean
  /** Takes 512 bytes. */
  take(block: Buffer): void
}

/** Regions in the order of the stream: sorted, apart from each other, bounded in number. */
export class SparseRegions {
  readonly list: SparseRegion[] = []
  readonly #max: number
  #count = 0
  /** Where the last region ends. */
  end = 0
  /** Bytes of all regions. */
  stored = 0

  /** @param max - how many there may be, those without a byte counted */
  constructor(max: number) {
    this.#max = max
  }

  /** How many there were, those without a byte counted. */
  get count(): number {
    return this.#count
  }

  /** @throws ImageError `tar-sparse`, `limit` */
  add(offset: number, size: number): void {
    this.expect(++this.#count)
    if (offset < this.end || size < 0 || !Number.isSafeInteger(offset + size))
      throw badSparse(`region of ${size} bytes at ${offset} is out of order or range`)
    this.end = offset + size
    this.stored += size
    if (size > 0) this.list.push({ offset, size })
  }

  /** Refuses a number of regions before they are read. @throws ImageError `limit` */
  expect(count: number): void {
    checkLimit("sparseRegions", count, this.#max, "regions of sparse files")
  }
}

/**
 * Checks a complete map against what it belongs to.
 *
 * @param stored - bytes of content that follow in the stream
 * @throws ImageError `tar-sparse`, `limit`
 */
export function checkSparse({ regions, realSize }: SparseMap, stored: number, limits: ImageLimits): void {
  if (regions.stored !== stored)
    throw badSparse(`regions have ${regions.stored} bytes, the entry has ${stored}`)
  if (realSize < regions.end) throw badSparse(`regions end at ${regions.end}, the file at ${realSize}`)
  checkLimit("layerBytes", realSize, limits.layerBytes, "size of a sparse file")
}

const SLOT_SIZE = 24
const HEADER_SLOTS = { at: 386, count: 4, extended: 482 } as const
const EXTENSION_SLOTS = { at: 0, count: 21, extended: 504 } as const
const REAL_SIZE_AT = 483
const FIELD = 12

/**
 * GNU's old format, type `S`: four regions in the header, 21 in each extension block that follows it.
 *
 * @see GNU tar manual, "Old GNU Format"
 */
export class OldSparseMap implements SparseMap {
  readonly regions: SparseRegions
  readonly realSize: number
  readonly name = undefined
  readonly inContent = false
  readonly #at: number
  wantsBlock = false
  #ended = false

  /**
   * @param header - the whole header block
   * @param at - its offset in the stream, for messages
   */
  constructor(header: Buffer, at: number, max: number) {
    this.#at = at
    this.regions = new SparseRegions(max)
    this.realSize = tarNumber(header, REAL_SIZE_AT, FIELD, at)
    this.#slots(header, HEADER_SLOTS)
  }

  take(block: Buffer): void {
    this.#slots(block, EXTENSION_SLOTS)
  }

  #slots(block: Buffer, slots: { at: number; count: number; extended: number }): void {
    for (let i = 0; i < slots.count; i++) this.#slot(block, slots.at + i * SLOT_SIZE)
    this.wantsBlock = block[slots.extended] !== 0
    if (this.wantsBlock && this.#ended) throw badSparse("map goes on after its end")
  }

  /** Programs disagree on which of the two fields ends the map: here both have to be empty. */
  #slot(block: Buffer, at: number): void {
    const empty = block[at] === 0 && block[at + FIELD] === 0
    if (empty) {
      this.#ended = true
      return
    }
    if (this.#ended || block[at] === 0 || block[at + FIELD] === 0) throw badSparse("map has a gap")
    this.regions.add(tarNumber(block, at, FIELD, this.#at), tarNumber(block, at + FIELD, FIELD, this.#at))
  }
}

const NEWLINE = 0x0a
const MAX_DIGITS = 16

/**
 * GNU's PAX format 1.0: the content begins with the map, decimal numbers in lines, filled up to 512 bytes: how
 * many regions there are, then offset and size of each.
 *
 * @see GNU tar manual, "PAX Format, Version 1.0"
 */
export class PaxSparseMap implements SparseMap {
  readonly regions: SparseRegions
  readonly realSize: number
  readonly name: string
  readonly inContent = true
  #digits = ""
  #left = -1
  #offset = -1

  constructor(name: string, realSize: number, max: number) {
    this.name = name
    this.realSize = realSize
    this.regions = new SparseRegions(max)
  }

  get wantsBlock(): boolean {
    return this.#left !== 0
  }

  take(block: Buffer): void {
    for (let i = 0; i < TAR_BLOCK && this.#left !== 0; i++) {
      const byte = block[i] as number
      if (byte === NEWLINE) this.#number()
      else if (byte >= 0x30 && byte <= 0x39 && this.#digits.length < MAX_DIGITS)
        this.#digits += String.fromCharCode(byte)
      else throw badSparse("map is not made of numbers")
    }
  }

  #number(): void {
    const value = parseDecimal(this.#digits)
    this.#digits = ""
    if (this.#left < 0) {
      this.regions.expect(value)
      this.#left = value
    } else if (this.#offset < 0) this.#offset = value
    else {
      this.regions.add(this.#offset, value)
      this.#offset = -1
      this.#left--
    }
  }
}

/** A number in decimal digits. @throws ImageError `tar-sparse` */
export function parseDecimal(text: string): number {
  const number = /^[0-9]{1,16}$/.test(text) ? Number(text) : Number.NaN
  if (!Number.isSafeInteger(number)) throw badSparse("map has something that is no number")
  return number
}

/** @returns the error that says what is wrong with a sparse file */
export function badSparse(why: string): ImageError {
  return new ImageError("tar-sparse", `wrong sparse file: ${why}`)
}
