import { execFileSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import zlib, { gzipSync } from "node:zlib"
import { describe, expect, test } from "vitest"
import { DEFAULT_LIMITS, type ImageLimits } from "../limits.js"
import type { Compression } from "../spec/media-types.js"
import { codeOf, hasProgram } from "../test-support/images.js"
import { rleFrame } from "../test-support/layers.js"
import { decompress } from "./decompress.js"

function input(bytes: Buffer, chunkSize: number) {
  return {
    bytesRead: 0,
    async next(): Promise<Buffer | undefined> {
      const chunk = bytes.subarray(this.bytesRead, this.bytesRead + chunkSize)
      this.bytesRead += chunk.length
      return chunk.length > 0 ? chunk : undefined
    },
  }
}

async function unpack(
  bytes: Buffer,
  compression: Compression,
  limits: Partial<ImageLimits> = {},
  chunkSize = 1000,
): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of decompress(input(bytes, chunkSize), compression, {
    ...DEFAULT_LIMITS,
    ...limits,
  }))
    chunks.push(chunk)
  return Buffer.concat(chunks)
}

/** Unpacks without keeping anything; how much came out before it ended. */
async function measure(
  bytes: Buffer,
  compression: Compression,
): Promise<{ code: string | undefined; size: number; peak: number }> {
  const idle = process.memoryUsage().rss
  let size = 0
  let peak = 0
  const code = await codeOf(async () => {
    for await (const chunk of decompress(input(bytes, 65_536), compression, DEFAULT_LIMITS)) {
      size += chunk.length
      peak = Math.max(peak, process.memoryUsage().rss - idle)
    }
  })
  return { code, size, peak }
}

const text = Buffer.concat([Buffer.from("hello ".repeat(20_000)), randomBytes(70_000)])

describe("gzip", () => {
  test("unpacks, also in tiny chunks", async () => {
    expect(await unpack(gzipSync(text), "gzip", {}, 7)).toEqual(text)
  })

  test("I5: unpacks several members one after the other", async () => {
    const members = Buffer.concat([gzipSync("one "), gzipSync(""), gzipSync("two")])
    expect((await unpack(members, "gzip")).toString()).toBe("one two")
  })

  test("I5: refuses a stream that is cut off, damaged, or followed by something else", async () => {
    const packed = gzipSync(text)
    const damaged = Buffer.from(packed)
    damaged[5000] = (damaged[5000] as number) ^ 0xff
    expect(await codeOf(() => unpack(packed.subarray(0, -1), "gzip"))).toBe("compression-invalid")
    expect(await codeOf(() => unpack(packed.subarray(0, 9), "gzip"))).toBe("compression-invalid")
    expect(await codeOf(() => unpack(damaged, "gzip"))).toBe("compression-invalid")
    expect(await codeOf(() => unpack(Buffer.concat([packed, Buffer.from("garbage")]), "gzip"))).toBe(
      "compression-invalid",
    )
  })

  test("I5: a bomb ends at the ratio, early and with flat memory", async () => {
    const member = gzipSync(Buffer.alloc(64 * 1024 * 1024))
    const bomb = Buffer.concat(Array(160).fill(member)) // 10 GiB of zeros in 10 MB

    const { code, size, peak } = await measure(bomb, "gzip")

    expect(code).toBe("limit")
    expect(size).toBeLessThan(DEFAULT_LIMITS.ratioFloor + 1024 * 1024)
    expect(peak).toBeLessThan(64 * 1024 * 1024)
  })

  test("I5: size has a limit whatever the ratio", async () => {
    expect(await codeOf(() => unpack(gzipSync(text), "gzip", { layerBytes: text.length - 1 }))).toBe("limit")
    expect(await codeOf(() => unpack(text, "none", { layerBytes: text.length - 1 }))).toBe("limit")
  })
})

describe("declared and actual compression", () => {
  const cases: readonly (readonly [string, Compression, Buffer])[] = [
    ["gzip declared as none", "none", gzipSync("x")],
    ["plain declared as gzip", "gzip", Buffer.from("plain text")],
    ["gzip declared as zstd", "zstd", gzipSync("x")],
    ["nothing declared as gzip", "gzip", Buffer.alloc(0)],
  ]
  test.each(cases)("I9: %s is refused", async (_name, declared, bytes) => {
    expect(await codeOf(() => unpack(bytes, declared))).toBe("media-type")
  })

  test("I5: compression inside compression is not unpacked", async () => {
    const inner = gzipSync(text)
    expect(await unpack(gzipSync(inner), "gzip")).toEqual(inner)
  })
})

const noZstd = hasProgram("zstd") ? false : "the program zstd is not installed (package zstd)"
const zstd = (bytes: Buffer, ...options: string[]) =>
  execFileSync("zstd", ["-q", "-c", ...options], { input: bytes, maxBuffer: 1 << 30 })

describe.skipIf(noZstd)(`zstd${noZstd ? ` (skipped: ${noZstd})` : ""}`, () => {
  test.each([["-1"], ["-19"], ["--no-check"], ["--check"]])("unpacks what zstd %s writes", async option => {
    for (const size of [0, 1, 5, 300, 200_000]) {
      const bytes = Buffer.concat([text, text]).subarray(0, size)
      expect(await unpack(zstd(bytes, option), "zstd", {}, 777)).toEqual(bytes)
    }
  })

  test("unpacks several frames and skips skippable ones", async () => {
    const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3])
    const frames = Buffer.concat([skippable, zstd(Buffer.from("one ")), skippable, zstd(Buffer.from("two"))])
    expect((await unpack(frames, "zstd", {}, 5)).toString()).toBe("one two")
  })

  test("I5: refuses a stream that is cut off or followed by something else", async () => {
    const packed = zstd(text)
    for (const end of [-1, -5, 20, 5])
      expect(await codeOf(() => unpack(packed.subarray(0, end), "zstd"))).toBe("compression-invalid")
    expect(await codeOf(() => unpack(Buffer.concat([packed, Buffer.from("garbage!")]), "zstd"))).toBe(
      "compression-invalid",
    )
  })

  test("I5: refuses a window above the limit", async () => {
    const packed = execFileSync("zstd", ["-q", "-c", "--long=27"], { input: randomBytes(1000) })
    expect(await codeOf(() => unpack(packed, "zstd", { zstdWindow: 1024 * 1024 }))).toBe("limit")
  })
})

describe("hostile zstd frames", () => {
  test("I5: a bomb of RLE blocks ends at the ratio, early and with flat memory", async () => {
    const { code, size, peak } = await measure(rleFrame(80_000, 128 * 1024), "zstd") // 10 GiB in 320 KB
    expect(code).toBe("limit")
    expect(size).toBeLessThan(DEFAULT_LIMITS.ratioFloor + 1024 * 1024)
    expect(peak).toBeLessThan(64 * 1024 * 1024)
  })

  test("I5: a stream of blocks that stand for next to nothing is refused before it costs time", async () => {
    // Node's own decoder has no such cost.
    const expected = "createZstdDecompress" in zlib ? undefined : "compression-invalid"
    expect(await codeOf(() => unpack(rleFrame(100_000, 1), "zstd"))).toBe(expected)
  })

  test("I5: a window of 2 GiB, a block above 128 KiB, a reserved block, a dictionary are refused", async () => {
    const frame = (...bytes: number[]) => Buffer.from([0x28, 0xb5, 0x2f, 0xfd, ...bytes])
    expect(await codeOf(() => unpack(frame(0x00, 0xa8, 1, 0, 0), "zstd"))).toBe("limit")
    expect(await codeOf(() => unpack(rleFrame(2, 128 * 1024 + 1), "zstd"))).toBe("compression-invalid")
    expect(await codeOf(() => unpack(frame(0x00, 0x58, 0x07, 0, 0, 0), "zstd"))).toBe("compression-invalid")
    expect(await codeOf(() => unpack(frame(0x01, 0x58, 0x01, 1, 0, 0, 0), "zstd"))).toBe(
      "compression-invalid",
    )
  })
})
