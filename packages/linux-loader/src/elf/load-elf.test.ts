import { describe, expect, test } from "vitest"
import type { LoaderErrorCode } from "../errors.js"
import { bytesImage } from "../kernel-image.js"
import { elfImage, phdrField, pvhNote } from "../testing/elf-image.js"
import { bytesAt, dirtyMemory, expectUntouched, MIB } from "../testing/memory.js"
import { refusedWith } from "../testing/refused.js"
import { loadElf } from "./load-elf.js"

const CODE = Uint8Array.of(1, 2, 3, 4)
const DATA = Uint8Array.of(5, 6)
const good = () =>
  elfImage(16 * MIB, [
    { paddr: 16 * MIB, data: CODE },
    { paddr: 17 * MIB, data: DATA, memSize: 4096 },
  ])

/** Stays untouched: each file that is meant for it is refused. */
const untouched = dirtyMemory(32 * MIB)

function spoil(image: Uint8Array, offset: number, size: 1 | 2 | 4 | 8, value: number | bigint) {
  const le = Buffer.alloc(8)
  le.writeBigUInt64LE(BigInt(value))
  image.set(le.subarray(0, size), offset)
  return image
}

/** A file spoiled at `offset` is refused and nothing of it was written. */
function expectRefused(code: LoaderErrorCode, offset: number, size: 1 | 2 | 4 | 8, value: number | bigint) {
  const image = spoil(good(), offset, size, value)
  const error = refusedWith(code, () => loadElf(untouched, bytesImage(image)))
  expectUntouched(untouched)
  return error
}

describe("loadElf", () => {
  test("copies segments to their physical addresses and zeroes bss", () => {
    const memory = dirtyMemory(32 * MIB)
    const kernel = loadElf(memory, bytesImage(good()))
    expect(kernel).toEqual({
      format: "elf",
      loadAddress: 16 * MIB,
      endAddress: 17 * MIB + 4096,
      entry: 16 * MIB,
    })
    expect(bytesAt(memory, 16 * MIB, 5)).toEqual(Uint8Array.of(1, 2, 3, 4, 0xee))
    expect(bytesAt(memory, 17 * MIB, 2)).toEqual(DATA)
    expect(bytesAt(memory, 17 * MIB + 2, 4094)).toEqual(new Uint8Array(4094))
    expect(bytesAt(memory, 17 * MIB + 4096, 1)).toEqual(Uint8Array.of(0xee))
  })

  test("takes segments in any order of addresses", () => {
    const memory = dirtyMemory(32 * MIB)
    const image = elfImage(2 * MIB, [
      { paddr: 3 * MIB, data: DATA },
      { paddr: 2 * MIB, data: CODE },
    ])
    expect(loadElf(memory, bytesImage(image))).toMatchObject({
      loadAddress: 2 * MIB,
      endAddress: 3 * MIB + 2,
    })
  })

  test("finds the PVH entry point", () => {
    const image = elfImage(16 * MIB, [{ paddr: 16 * MIB, data: CODE }], pvhNote(16 * MIB + 2))
    expect(loadElf(dirtyMemory(32 * MIB), bytesImage(image)).pvhEntry).toBe(16 * MIB + 2)
  })

  test("loads below 1 MiB only where the caller allows it", () => {
    const image = elfImage(0x8000, [{ paddr: 0x8000, data: CODE }])
    refusedWith("kernel-address", () => loadElf(dirtyMemory(MIB), bytesImage(image)))
    const memory = dirtyMemory(MIB)
    expect(loadElf(memory, bytesImage(image), { lowest: 0 }).entry).toBe(0x8000)
    expect(bytesAt(memory, 0x8000, 4)).toEqual(CODE)
  })

  test("leaves zeroes, not half a kernel, when the source fails midway", () => {
    const memory = dirtyMemory(32 * MIB)
    const bytes = good()
    const failing = {
      size: bytes.length,
      read(offset: number, into: Uint8Array) {
        if (into.length === DATA.length) throw new Error("I/O error")
        into.set(bytes.subarray(offset, offset + into.length))
      },
    }
    expect(() => loadElf(memory, failing)).toThrow("I/O error")
    expect(bytesAt(memory, 16 * MIB, 4)).toEqual(new Uint8Array(4))
    expect(bytesAt(memory, 17 * MIB, 2)).toEqual(new Uint8Array(2))
  })
})

describe("K1: files that are no x86-64 ELF", () => {
  test.each<[string, LoaderErrorCode, number, 1 | 2 | 4 | 8, number]>([
    ["wrong magic", "elf-magic", 1, 1, 0x46],
    ["32-bit class", "elf-class", 4, 1, 1],
    ["big-endian data", "elf-endianness", 5, 1, 2],
    ["relocatable object", "elf-type", 16, 2, 1],
    ["arm64 machine", "elf-machine", 18, 2, 183],
  ])("K1: %s", (_, code, offset, size, value) => {
    expect(expectRefused(code, offset, size, value).offset).toBe(code === "elf-magic" ? 0 : offset)
  })

  test.each([0, 1, 63])("K1: a file of %i bytes", length => {
    refusedWith("truncated", () => loadElf(untouched, bytesImage(good().subarray(0, length))))
    expectUntouched(untouched)
  })
})

describe("K3: hostile ELF headers", () => {
  test.each<[string, LoaderErrorCode, number, 1 | 2 | 4 | 8, number | bigint]>([
    ["phoff past the end", "truncated", 32, 8, 1000],
    ["phoff near 2^64", "truncated", 32, 8, 2n ** 64n - 8n],
    ["phnum past the end", "truncated", 56, 2, 1000],
    ["phnum of extended numbering", "elf-program-headers", 56, 2, 0xffff],
    ["no program headers", "elf-program-headers", 56, 2, 0],
    ["phentsize too small", "elf-program-headers", 54, 2, 32],
    ["phentsize too large", "elf-program-headers", 54, 2, 0xffff],
    ["p_offset far past the end", "truncated", phdrField(0, "offset"), 8, 2n ** 53n - 1n],
    ["filesz above memsz", "segment-size", phdrField(0, "memsz"), 8, 3],
    ["filesz past the end", "truncated", phdrField(1, "filesz"), 8, 4000],
    ["filesz of 2^63", "segment-size", phdrField(0, "filesz"), 8, 2n ** 63n],
    ["memsz of 2^63", "segment-size", phdrField(0, "memsz"), 8, 2n ** 63n],
    ["memsz above RAM", "kernel-address", phdrField(1, "memsz"), 8, 2 ** 40],
    ["p_paddr below 1 MiB", "kernel-address", phdrField(0, "paddr"), 8, 0x7000],
    ["p_paddr above RAM", "kernel-address", phdrField(0, "paddr"), 8, 32 * MIB],
    ["p_paddr that wraps", "kernel-address", phdrField(0, "paddr"), 8, 2n ** 64n - 1n],
    ["a segment across the end of RAM", "kernel-address", phdrField(0, "paddr"), 8, 32 * MIB - 1],
    ["overlapping segments", "segment-overlap", phdrField(0, "paddr"), 8, 17 * MIB + 1],
    ["entry outside of segments", "entry-outside", 24, 8, 18 * MIB],
    ["entry at the end of a segment", "entry-outside", 24, 8, 16 * MIB + 4],
    ["entry near 2^64", "entry-outside", 24, 8, 2n ** 64n - 1n],
  ])("K3: %s", (_, code, ...spoil) => {
    expectRefused(code, ...spoil)
  })

  test("K3: only empty segments", () => {
    refusedWith("no-segments", () =>
      loadElf(untouched, bytesImage(elfImage(0, [{ paddr: 16 * MIB, data: new Uint8Array() }]))),
    )
  })

  test("K3: an error names the offset of the program header", () => {
    const error = expectRefused("kernel-address", phdrField(1, "paddr"), 8, 2 ** 40)
    expect(error).toMatchObject({ offset: phdrField(1, "type"), at: 2 ** 40, need: 4096 })
    expect(error.message).toContain("0x10000000000")
  })

  test("K3: headers of types that are not loaded may hold anything", () => {
    const image = good()
    image.set([1, 0, 0, 0x60], phdrField(1, "type"))
    spoil(image, phdrField(1, "filesz"), 8, 2n ** 63n)
    expect(loadElf(dirtyMemory(32 * MIB), bytesImage(image)).endAddress).toBe(16 * MIB + 4)
  })
})
