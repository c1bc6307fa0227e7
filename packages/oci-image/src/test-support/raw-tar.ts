import { TAR_BLOCK } from "../layer/tar-header.js"

/** Header fields as they are to stand in the block; text is written as it is, numbers as octal. */
export interface RawFields {
  readonly name?: string
  readonly mode?: string | number
  readonly uid?: string | number | Buffer
  readonly gid?: string | number | Buffer
  readonly size?: string | number | Buffer
  readonly mtime?: string | number | Buffer
  readonly type?: string
  readonly linkname?: string
  readonly magic?: string
  readonly prefix?: string
  readonly devmajor?: string | number
  readonly devminor?: string | number
  /** Instead of the right one. */
  readonly checksum?: string
}

/** One header block with nothing checked, for streams that no well-behaved program writes. */
export function rawHeader(fields: RawFields): Buffer {
  const block = Buffer.alloc(TAR_BLOCK)
  const put = (value: string | number | Buffer, at: number, size: number) => {
    const text = typeof value === "number" ? value.toString(8).padStart(size - 1, "0") : value
    Buffer.from(text as string, "latin1").copy(block, at)
  }
  put(fields.name ?? "file", 0, 100)
  put(fields.mode ?? 0o644, 100, 8)
  put(fields.uid ?? 0, 108, 8)
  put(fields.gid ?? 0, 116, 8)
  put(fields.size ?? 0, 124, 12)
  put(fields.mtime ?? 0, 136, 12)
  put(fields.type ?? "0", 156, 1)
  put(fields.linkname ?? "", 157, 100)
  put(fields.magic ?? "ustar\x0000", 257, 8)
  put(fields.devmajor ?? 0, 329, 8)
  put(fields.devminor ?? 0, 337, 8)
  put(fields.prefix ?? "", 345, 155)
  block.fill(0x20, 148, 156)
  const sum = block.reduce((a, b) => a + b, 0)
  put(fields.checksum ?? `${sum.toString(8).padStart(6, "0")}\0 `, 148, 8)
  return block
}

/** Content and the zeros after it. */
export function padded(content: string | Buffer): Buffer {
  const bytes = Buffer.from(content as string, "latin1")
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & (TAR_BLOCK - 1))])
}

/** A whole entry with content of the right size. */
export function rawEntry(fields: RawFields, content = ""): Buffer {
  return Buffer.concat([rawHeader({ size: content.length, ...fields }), padded(content)])
}

/** A PAX extended header entry of ready-made records. */
export function rawPax(records: string, type = "x"): Buffer {
  return rawEntry({ name: "pax", type }, records)
}

/** One well-formed PAX record. */
export function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`
  let length = rest.length + 1
  while (`${length}`.length + rest.length > length) length++
  return `${length}${rest}`
}

/** The end of a stream. */
export const END = Buffer.alloc(2 * TAR_BLOCK)

/** A positive or negative number as GNU's base-256. */
export function base256(value: bigint, size: number): Buffer {
  const field = Buffer.alloc(size)
  for (let i = size - 1, left = BigInt.asUintN(size * 8, value); i >= 0; i--, left >>= 8n)
    field[i] = Number(left & 0xffn)
  field[0] = (field[0] as number) | 0x80
  return field
}
