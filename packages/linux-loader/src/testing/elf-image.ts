import { EHDR_SIZE, PHDR_SIZE, PT_LOAD, PT_NOTE } from "../elf/defs.js"

/** A segment of a made-up ELF file. */
export interface TestSegment {
  readonly paddr: number
  readonly data: Uint8Array
  /** Default: the length of `data`. */
  readonly memSize?: number
}

/** Offset of field `name` of program header `index`, for spoiling it. */
export function phdrField(
  index: number,
  name: "type" | "offset" | "paddr" | "filesz" | "memsz" | "align",
): number {
  const fields = { type: 0, offset: 8, paddr: 24, filesz: 32, memsz: 40, align: 48 }
  return EHDR_SIZE + index * PHDR_SIZE + fields[name]
}

/** A well-formed x86-64 ELF file: the segments in order, then, if there are notes, a note segment. */
export function elfImage(entry: number, segments: readonly TestSegment[], notes?: Uint8Array): Uint8Array {
  const contents = segments.map(({ data }) => data)
  if (notes) contents.push(notes)
  const start = EHDR_SIZE + contents.length * PHDR_SIZE
  const bytes = new Uint8Array(start + contents.reduce((sum, { length }) => sum + length, 0))
  const view = new DataView(bytes.buffer)
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
  view.setUint16(16, 2, true)
  view.setUint16(18, 62, true)
  view.setUint32(20, 1, true)
  view.setBigUint64(24, BigInt(entry), true)
  view.setBigUint64(32, BigInt(EHDR_SIZE), true)
  view.setUint16(52, EHDR_SIZE, true)
  view.setUint16(54, PHDR_SIZE, true)
  view.setUint16(56, contents.length, true)
  let offset = start
  contents.forEach((content, i) => {
    const segment = segments[i]
    const put = (name: Parameters<typeof phdrField>[1], value: number) =>
      view.setBigUint64(phdrField(i, name), BigInt(value), true)
    put("type", segment ? PT_LOAD : PT_NOTE)
    put("offset", offset)
    put("paddr", segment?.paddr ?? 0)
    put("filesz", content.length)
    put("memsz", segment?.memSize ?? content.length)
    put("align", segment ? 4096 : 4)
    bytes.set(content, offset)
    offset += content.length
  })
  return bytes
}

/** One ELF note, padded to `alignment`. */
export function elfNote(name: string, type: number, desc: Uint8Array, alignment = 4): Uint8Array {
  const pad = (bytes: Uint8Array) => Buffer.concat([bytes, Buffer.alloc(-bytes.length & (alignment - 1))])
  const head = Buffer.alloc(12)
  head.writeUInt32LE(name.length, 0)
  head.writeUInt32LE(desc.length, 4)
  head.writeUInt32LE(type, 8)
  return Buffer.concat([pad(Buffer.concat([head, Buffer.from(name, "latin1")])), pad(desc)])
}

/** The note that names a PVH entry point, of 4 or 8 bytes. */
export function pvhNote(entry: number, size: 4 | 8 = 8): Uint8Array {
  const desc = Buffer.alloc(8)
  desc.writeBigUInt64LE(BigInt(entry))
  return elfNote("Xen\0", 18, desc.subarray(0, size))
}
