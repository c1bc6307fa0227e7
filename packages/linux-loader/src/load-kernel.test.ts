import { gzipSync } from "node:zlib"
import { describe, expect, test } from "vitest"
import { bytesImage } from "./kernel-image.js"
import { detectFormat, loadKernel } from "./load-kernel.js"
import { arm64Image } from "./testing/arm64-image.js"
import { bzImage } from "./testing/bzimage.js"
import { elfImage } from "./testing/elf-image.js"
import { dirtyMemory, expectUntouched, MIB } from "./testing/memory.js"
import { refusedWith } from "./testing/refused.js"

const IMAGES = {
  elf: elfImage(2 * MIB, [{ paddr: 2 * MIB, data: Uint8Array.of(0xf4) }]),
  bzimage: bzImage({ pref_address: 2 * MIB }),
  "arm64-image": arm64Image(),
} as const

describe("loadKernel", () => {
  test.each(["elf", "bzimage", "arm64-image"] as const)("recognises %s by its magic number", format => {
    const image = bytesImage(IMAGES[format])
    expect(detectFormat(image)).toBe(format)
    expect(loadKernel(dirtyMemory(8 * MIB), image).format).toBe(format)
  })

  test.each<[string, Uint8Array]>([
    ["an empty file", new Uint8Array()],
    ["three bytes", Uint8Array.of(0x7f, 0x45, 0x4c)],
    ["text", Buffer.from("#!/bin/sh\n".repeat(200))],
    ["a gzip file", gzipSync(IMAGES.elf)],
    ["a PE file", Buffer.concat([Buffer.from("MZ"), Buffer.alloc(4096)])],
    ["zeroes", new Uint8Array(65_536)],
  ])("K1: %s is no kernel", (_, bytes) => {
    const memory = dirtyMemory(4 * MIB)
    expect(detectFormat(bytesImage(bytes))).toBeUndefined()
    expect(refusedWith("unknown-format", () => loadKernel(memory, bytesImage(bytes))).have).toBe(bytes.length)
    expectUntouched(memory)
  })

  test.each(["elf", "bzimage"] as const)("K1: a truncated %s is refused at every length", format => {
    const memory = dirtyMemory(4 * MIB)
    const whole = IMAGES[format]
    for (let length = 0; length < whole.length; length += 1 + Math.floor(length / 50)) {
      expect(() => loadKernel(memory, bytesImage(whole.subarray(0, length)))).toThrow(
        expect.objectContaining({
          name: "LoaderError",
          code: expect.stringMatching(/^(truncated|unknown-format)$/),
        }),
      )
    }
    expectUntouched(memory)
  })
})
