import { createHash, type Hash } from "node:crypto"
import { crc32 } from "node:zlib"
import { BLOCK_SIZE } from "../erofs/defs.js"
import type { ByteReader, ByteWriter } from "./bytes.js"
import { corrupt } from "./index-checks.js"

/** Blocks of a chunk: contents are compared in pieces of this size, 64 KiB, and a last one that may be shorter. */
export const CONTENT_CHUNK = 16
const CHUNK_SIZE = CONTENT_CHUNK * BLOCK_SIZE
const HEAD_WORDS = 2
const WORD_SIZE = 4

/**
 * What stands in a data part: for every content, in the order of their blocks, its first block, its number of blocks,
 * and 32 bits of a hash for each of its chunks. Sparse files are left out. The hashes come from a process that read hostile
 * input: they say where equal chunks may be, never that they are equal.
 */
export type Contents = Uint32Array

/** One content of a part. */
export interface Content {
  readonly block: number
  readonly blocks: number
  readonly hashes: Uint32Array
}

/** Goes through the contents of a part. */
export function* eachContent(contents: Contents): Generator<Content> {
  for (let at = 0; at < contents.length; ) {
    const [block = 0, blocks = 0] = contents.subarray(at, at + HEAD_WORDS)
    const next = at + HEAD_WORDS + chunksOf(blocks)
    yield { block, blocks, hashes: contents.subarray(at + HEAD_WORDS, next) }
    at = next
  }
}

function chunksOf(blocks: number): number {
  return Math.ceil(blocks / CONTENT_CHUNK)
}

/** Encodes contents: their number of words, then the words. */
export function writeContents(out: ByteWriter, contents: Contents): void {
  out.u32(contents.length)
  for (const word of contents) out.u32(word)
}

/**
 * Decodes contents, which are sorted, apart from each other, and inside the part.
 *
 * @param blocks - of the part
 * @throws ImageError `index-corrupt`; RangeError beyond the end
 */
export function readContents(input: ByteReader, blocks: number): Contents {
  const length = input.u32()
  if (length * WORD_SIZE > input.left) throw corrupt("contents end too early")
  const contents = new Uint32Array(length)
  for (let i = 0; i < length; i++) contents[i] = input.u32()
  let free = 0
  let words = 0
  for (const content of eachContent(contents)) {
    if (content.blocks === 0 || content.block < free) throw corrupt("wrong contents")
    free = content.block + content.blocks
    words += HEAD_WORDS + chunksOf(content.blocks)
  }
  if (free > blocks || words !== length) throw corrupt("contents outside the data part")
  return contents
}

/** Collects the contents of a part while they are written. */
export class ContentsWriter {
  #words = new Uint32Array(1024)
  #used = 0
  /** Where the current content begins. */
  #start = 0
  #size = 0
  #isSmall = false
  #crc = 0
  #chunk: Hash | undefined
  #lastDigest: Buffer | undefined
  /** Of the digests of all chunks, where there are several. */
  #whole: Hash | undefined

  /** Begins a content of `size` bytes, more than none. */
  begin(block: number, size: number): void {
    this.#start = this.#used
    this.#size = 0
    this.#isSmall = size < BLOCK_SIZE
    this.#crc = 0
    this.#chunk = undefined
    this.#whole = size > CHUNK_SIZE ? createHash("sha256") : undefined
    this.#put(block)
    this.#put(Math.ceil(size / BLOCK_SIZE))
  }

  append(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const taken = Math.min(bytes.length - at, CHUNK_SIZE - (this.#size % CHUNK_SIZE))
      this.#update(at === 0 && taken === bytes.length ? bytes : bytes.subarray(at, at + taken))
      at += taken
      this.#size += taken
      if (this.#size % CHUNK_SIZE === 0) this.#endChunk()
    }
  }

  /**
   * Ends the content.
   *
   * @returns a hash that two different contents do not share; undefined for those of less than a block
   */
  end(): string | undefined {
    if (this.#size % CHUNK_SIZE !== 0) this.#endChunk()
    // Marked, lest a list of digests be taken for the file whose digests they are.
    return this.#whole ? `*${this.#whole.digest("binary")}` : this.#lastDigest?.toString("latin1")
  }

  /** Takes the last content back. */
  drop(): void {
    this.#used = this.#start
  }

  /** All of them. */
  finish(): Contents {
    return this.#words.subarray(0, this.#used)
  }

  /** Hashing few bytes with SHA-256 takes longer than all else that is done with them. */
  #update(bytes: Buffer): void {
    if (this.#isSmall) this.#crc = crc32(bytes, this.#crc)
    else {
      this.#chunk ??= createHash("sha256")
      this.#chunk.update(bytes)
    }
  }

  #endChunk(): void {
    const digest = this.#chunk?.digest()
    this.#chunk = undefined
    this.#put(digest ? digest.readUInt32LE(0) : this.#crc)
    if (digest) this.#whole?.update(digest)
    this.#lastDigest = digest
  }

  #put(word: number): void {
    if (this.#used === this.#words.length) {
      const grown = new Uint32Array(2 * this.#used)
      grown.set(this.#words)
      this.#words = grown
    }
    this.#words[this.#used++] = word
  }
}
