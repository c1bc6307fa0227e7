import { randomBytes } from "node:crypto"
import { constants, deflateRawSync, gunzipSync, gzipSync, type ZlibOptions } from "node:zlib"
import { describe, expect, test } from "vitest"
import { codeOf } from "../test-support/images.js"
import type { ReadBytes } from "./bit-reader.js"
import { type DeflateBlock, findDeflateBlocks } from "./deflate-blocks.js"

function readerOf(bytes: Buffer, most = bytes.length): ReadBytes {
  let at = 0
  return into => {
    const taken = bytes.copy(into, 0, at, at + most)
    at += taken
    return taken
  }
}

function blocksOf(file: Buffer, most?: number): { blocks: DeflateBlock[]; size: number } {
  const blocks: DeflateBlock[] = []
  const size = findDeflateBlocks(readerOf(file, most), block => blocks.push(block))
  return { blocks, size }
}

/** Text of few words, numbers, noise and zeros: every kind of block and match. */
const CONTENT = Buffer.concat([
  Buffer.from(Array.from({ length: 40_000 }, (_, i) => `word${i % 97} ${i * 7919} `).join("")),
  randomBytes(200_000),
  Buffer.alloc(300_000),
])

const SETTINGS: [string, ZlibOptions][] = [
  ["level 1", { level: 1 }],
  ["level 9", { level: 9 }],
  ["stored", { level: 0 }],
  ["fixed codes", { strategy: constants.Z_FIXED }],
  ["no matches", { strategy: constants.Z_HUFFMAN_ONLY }],
  ["runs only", { strategy: constants.Z_RLE }],
  ["small blocks", { memLevel: 1 }],
]

describe("RFC 1951: blocks are found, and reading on from each gives the rest", () => {
  test.each(SETTINGS)("%s", (_, options) => {
    const file = gzipSync(CONTENT, options)
    const { blocks, size } = blocksOf(file)
    expect(size).toBe(CONTENT.length)
    expect(blocks[0]).toEqual({ bit: 80, output: 0, isFirst: true })
    // A last block of ours in place of the rest: zlib agrees that a block ended there.
    for (const { bit, output } of blocks.slice(1, 40)) {
      const whole = file.subarray(10, bit >> 3)
      const bits = bit & 7
      const first = (file[bit >> 3] as number) & ((1 << bits) - 1)
      // "last, fixed codes, end of block": 1, 01, 0000000, moved to where the block begins.
      const end = first | (0b011 << bits)
      const tail = Buffer.from([end & 255, end >> 8, 0, 0])
      expect(gunzipRaw(Buffer.concat([whole, tail]))).toBe(output)
    }
  })

  test("however the file comes in", () => {
    const file = gzipSync(CONTENT)
    expect(blocksOf(file, 777)).toEqual(blocksOf(file))
  })

  test("RFC 1952: several members, with names, comments and extra fields", () => {
    const raw = deflateRawSync(Buffer.from("hello"))
    const trailer = gzipSync(Buffer.from("hello")).subarray(-8)
    const header = Buffer.from([0x1f, 0x8b, 8, 4 + 8 + 16 + 2, 0, 0, 0, 0, 0, 3, 2, 0, 1, 2])
    const named = Buffer.concat([header, Buffer.from("name\0comment\0"), Buffer.from([0, 0]), raw, trailer])
    const { blocks, size } = blocksOf(Buffer.concat([named, gzipSync(""), gzipSync(CONTENT)]))
    expect(size).toBe(5 + CONTENT.length)
    expect(blocks.filter(({ isFirst }) => isFirst).map(({ output }) => output)).toEqual([0, 5, 5])
  })
})

describe("I5: what is no gzip file", () => {
  const file = gzipSync(CONTENT)
  const refused: [string, Buffer][] = [
    ["other bytes", Buffer.from("nonsense")],
    ["half of a header", file.subarray(0, 5)],
    ["half of a file", file.subarray(0, file.length >> 1)],
    ["no trailer", file.subarray(0, -8)],
    [
      "a name without end",
      Buffer.concat([Buffer.from([0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3]), Buffer.alloc(100_000, "a")]),
    ],
    ["a block of type 3", Buffer.concat([file.subarray(0, 10), Buffer.from([0b111, 0, 0])])],
    ["a stored block of two lengths", Buffer.concat([file.subarray(0, 10), Buffer.from([1, 1, 0, 1, 0])])],
    [
      "codes of too many symbols",
      Buffer.concat([file.subarray(0, 10), Buffer.from([0b101, 0, ...Buffer.alloc(50, 0x49)])]),
    ],
  ]
  test.each(refused)("%s", async (_, bytes) => {
    expect(await codeOf(() => blocksOf(bytes))).toBe("compression-invalid")
  })

  test("random bytes after a header always end, one way or the other", async () => {
    for (let i = 0; i < 300; i++) {
      const bytes = Buffer.concat([file.subarray(0, 10), randomBytes(400)])
      expect([undefined, "compression-invalid"]).toContain(await codeOf(() => blocksOf(bytes)))
    }
  })
})

/** @returns bytes that a raw deflate stream unpacks to */
function gunzipRaw(raw: Buffer): number {
  const header = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3])
  return gunzipSync(Buffer.concat([header, raw]), { finishFlush: constants.Z_SYNC_FLUSH }).length
}
