import { describe, expect, test } from "vitest"
import { bytesImage } from "../kernel-image.js"
import { elfImage, elfNote, phdrField, pvhNote } from "../testing/elf-image.js"
import { dirtyMemory, expectUntouched, MIB } from "../testing/memory.js"
import { refusedWith } from "../testing/refused.js"
import { loadElf } from "./load-elf.js"

const BASE = 2 * MIB
const SEGMENTS = [{ paddr: BASE, data: new Uint8Array(64) }]
const load = (notes: Uint8Array, memory = dirtyMemory(4 * MIB)) =>
  loadElf(memory, bytesImage(elfImage(BASE, SEGMENTS, notes)))

/** Stays untouched: each file that is meant for it is refused. */
const untouched = dirtyMemory(4 * MIB)

function expectMalformed(notes: Uint8Array) {
  refusedWith("malformed-note", () => load(notes, untouched))
  expectUntouched(untouched)
}

describe("K4: PVH notes", () => {
  test.each([4, 8] as const)("K4: an address of %i bytes", size => {
    expect(load(pvhNote(BASE + 8, size)).pvhEntry).toBe(BASE + 8)
  })

  test("K4: notes of others, of other types and with other names are passed over", () => {
    const notes = [
      elfNote("GNU\0", 18, Buffer.from("build-id")),
      elfNote("Xen\0", 6, Buffer.from("linux\0")),
      elfNote("Xen", 18, Buffer.alloc(8)),
      elfNote("Xenon\0", 18, Buffer.alloc(8)),
      pvhNote(BASE + 1),
      pvhNote(BASE + 2),
    ]
    expect(load(Buffer.concat(notes)).pvhEntry).toBe(BASE + 1)
  })

  test("K4: a segment aligned to 8 pads its notes to 8", () => {
    const desc = Buffer.alloc(8)
    desc.writeUInt32LE(BASE + 3)
    const notes = Buffer.concat([elfNote("GNU\0", 5, Buffer.alloc(4), 8), elfNote("Xen\0", 18, desc, 8)])
    const image = elfImage(BASE, SEGMENTS, notes)
    image[phdrField(1, "align")] = 8
    expect(loadElf(dirtyMemory(4 * MIB), bytesImage(image)).pvhEntry).toBe(BASE + 3)
  })

  test.each([0, 1, 3, 2 ** 31])(
    "K4: a segment that claims an alignment of %i has notes padded to 4",
    align => {
      const image = elfImage(
        BASE,
        SEGMENTS,
        Buffer.concat([elfNote("GNU\0", 5, Buffer.alloc(2)), pvhNote(BASE)]),
      )
      new DataView(image.buffer).setUint32(phdrField(1, "align"), align, true)
      expect(loadElf(dirtyMemory(4 * MIB), bytesImage(image)).pvhEntry).toBe(BASE)
    },
  )

  test("K4: a file without notes has no PVH entry", () => {
    expect(load(new Uint8Array()).pvhEntry).toBeUndefined()
    expect(load(new Uint8Array(11)).pvhEntry).toBeUndefined()
  })

  test.each([0, 1, 7, 9, 16])("K4: an address of %i bytes is refused", size => {
    expectMalformed(elfNote("Xen\0", 18, Buffer.alloc(size, 1)))
  })

  test("K4: an address above 4 GiB is refused", () => {
    expectMalformed(pvhNote(2 ** 32 + BASE))
  })

  test.each([0, 4])("K4: a size at offset %i that leaves the segment is refused", offset => {
    for (const size of [100, 0x7fff_ffff, 0xffff_ffff]) {
      const note = Buffer.from(pvhNote(BASE))
      note.writeUInt32LE(size, offset)
      expectMalformed(note)
    }
  })

  test("K4: notes that have no size of their own end with their segment", () => {
    expect(load(new Uint8Array(60_000)).pvhEntry).toBeUndefined()
  })

  test("K4: more notes than a kernel could have are refused", () => {
    expectMalformed(new Uint8Array(64 * 1024 + 1))
  })

  test("K4: an entry outside of what is loaded is refused", () => {
    const memory = dirtyMemory(4 * MIB)
    refusedWith("entry-outside", () => load(pvhNote(BASE + 64), memory))
    expectUntouched(memory)
  })
})
