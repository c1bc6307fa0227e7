/** Header fields of an arm64 `Image` that tests change. */
export interface Arm64Fields {
  readonly textOffset?: bigint
  readonly imageSize?: bigint
  readonly flags?: bigint
  readonly magic?: number
}

/** A well-formed arm64 `Image` with a tiny "kernel" of 0xcc bytes. */
export function arm64Image(fields: Arm64Fields = {}, size = 8192): Uint8Array {
  const { textOffset = 0n, imageSize = 65_536n, flags = 0b1010n, magic = 0x644d5241 } = fields
  const bytes = new Uint8Array(size).fill(0xcc)
  const view = new DataView(bytes.buffer)
  bytes.fill(0, 0, 64)
  view.setBigUint64(8, textOffset, true)
  view.setBigUint64(16, imageSize, true)
  view.setBigUint64(24, flags, true)
  view.setUint32(56, magic, true)
  return bytes
}
