import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import type { LoaderErrorCode } from "../errors.js"
import { bytesImage } from "../kernel-image.js"
import { type Arm64Fields, arm64Image } from "../testing/arm64-image.js"
import { bytesAt, dirtyMemory, expectUntouched, MIB } from "../testing/memory.js"
import { refusedWith } from "../testing/refused.js"
import { loadArm64Image } from "./load-image.js"

describe("loadArm64Image", () => {
  test("loads at the text offset behind the first 2 MiB boundary and zeroes up to image_size", () => {
    const memory = arrayBufferMemory([{ start: 0x4010_0000, size: 8 * MIB }])
    memory.regions[0]!.bytes.fill(0xee)
    const image = arm64Image({ textOffset: 0x8_0000n })
    expect(loadArm64Image(memory, bytesImage(image))).toEqual({
      format: "arm64-image",
      loadAddress: 0x4028_0000,
      endAddress: 0x4029_0000,
      entry: 0x4028_0000,
    })
    expect(bytesAt(memory, 0x4028_0000, 8192)).toEqual(image)
    expect(bytesAt(memory, 0x4028_0000 + 8192, 65_536 - 8192)).toEqual(new Uint8Array(65_536 - 8192))
    expect(bytesAt(memory, 0x4029_0000, 1)).toEqual(Uint8Array.of(0xee))
  })

  test.each<[string, LoaderErrorCode, Arm64Fields]>([
    ["no magic", "arm64-magic", { magic: 0 }],
    ["big-endian", "arm64-endianness", { flags: 1n }],
    ["text offset of 2 MiB", "arm64-header", { textOffset: 2n * 2n ** 20n }],
    ["text offset inside of a page", "arm64-header", { textOffset: 8n }],
    ["image_size 0, from before Linux 3.17", "arm64-header", { imageSize: 0n }],
    ["image_size below the file's", "arm64-header", { imageSize: 4096n }],
    ["image_size near 2^64", "arm64-header", { imageSize: 2n ** 64n - 1n }],
    ["image_size above RAM", "kernel-address", { imageSize: 5n * 2n ** 20n }],
  ])("refuses %s", (_, code, fields) => {
    const memory = dirtyMemory(4 * MIB)
    refusedWith(code, () => loadArm64Image(memory, bytesImage(arm64Image(fields))))
    expectUntouched(memory)
  })

  test("refuses a file that ends inside of its header", () => {
    refusedWith("truncated", () =>
      loadArm64Image(dirtyMemory(4 * MIB), bytesImage(arm64Image().subarray(0, 60))),
    )
  })
})
