/** Takes apart LZ4's legacy frame (the one kernels are packed in): blocks of up to 8 MiB behind their lengths. */
export function unpackLz4Legacy(packed: Uint8Array): Buffer {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.length)
  const blocks: Uint8Array[] = []
  for (let at = 4; at + 4 <= packed.length; ) {
    const size = view.getUint32(at, true)
    if (size > packed.length - at - 4) break
    blocks.push(unpackBlock(packed.subarray(at + 4, at + 4 + size)))
    at += 4 + size
  }
  return Buffer.concat(blocks)
}

function unpackBlock(block: Uint8Array): Uint8Array {
  const out = Buffer.allocUnsafe(8 * 2 ** 20)
  let at = 0
  let end = 0
  const extended = (length: number): number => {
    if (length !== 15) return length
    for (let byte = 255; byte === 255; length += byte) byte = block[at++]!
    return length
  }
  while (at < block.length) {
    const token = block[at++]!
    const literals = extended(token >> 4)
    out.set(block.subarray(at, at + literals), end)
    at += literals
    end += literals
    if (at >= block.length) break
    const distance = block[at]! | (block[at + 1]! << 8)
    at += 2
    const match = extended(token & 15) + 4
    // Byte by byte: a match may overlap what it makes.
    for (let left = match; left > 0; left--, end++) out[end] = out[end - distance]!
  }
  return out.subarray(0, end)
}
