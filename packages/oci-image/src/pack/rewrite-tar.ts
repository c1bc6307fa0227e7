import { ImageError, printable } from "../errors.js"
import { StreamInput, unpacked } from "../layer/stream-input.js"
import { type TarEntry, TarReader } from "../layer/tar-reader.js"
import { checkLimit, DEFAULT_LIMITS, type ImageLimits } from "../limits.js"
import { encodeTarHeader, tarEnd, tarPadding } from "./tar-writer.js"

const ZEROS = Buffer.alloc(64 * 1024)

/**
 * Anybody's tar stream in one form, that of {@link encodeTarHeader}: plain, gzip or zstd; GNU's and old headers become
 * ustar ones with PAX records, holes become zeroes. What has two meanings is refused, as in a layer; so are devices. Names
 * are not looked at.
 *
 * @throws ImageError every `tar-*` code, `entry-device`, `entry-xattr`, `compression-invalid`, `source-invalid`, `limit`,
 * and what the stream throws
 * @example
 * ```ts
 * import { createReadStream, createWriteStream } from "node:fs"
 * import { pipeline } from "node:stream/promises"
 * import { rewriteTar } from "@ts-vmm/oci-image/tar"
 *
 * await pipeline(rewriteTar(createReadStream("files.tgz")), createWriteStream("files.tar"))
 * ```
 */
export async function* rewriteTar(
  chunks: AsyncIterable<Uint8Array>,
  limits: ImageLimits = DEFAULT_LIMITS,
): AsyncGenerator<Buffer> {
  const input = new StreamInput(chunks, limits)
  const rewriter = new Rewriter(limits)
  const reader = new TarReader(rewriter, limits, { sparse: true })
  try {
    for await (const chunk of unpacked(input, limits)) {
      reader.push(chunk)
      yield* rewriter.take()
    }
    reader.end()
    yield tarEnd()
  } finally {
    await input.close()
  }
}

/** Bytes, or that many zeroes: holes must not be in memory all at once. */
type Piece = Buffer | number

class Rewriter {
  readonly #limits: ImageLimits
  #pieces: Piece[] = []
  #entry: TarEntry | undefined
  /** Of a sparse file: index of the region that the next byte belongs to, and where that byte stands in the file. */
  #region = 0
  #at = 0
  #total = 0

  constructor(limits: ImageLimits) {
    this.#limits = limits
  }

  entry(entry: TarEntry): void {
    if (entry.type === "char" || entry.type === "block")
      throw new ImageError("entry-device", `${printable(entry.path)} is a device`, { path: entry.path })
    this.#total += entry.size
    checkLimit("layerBytes", this.#total, this.#limits.layerBytes, "content of the tar stream")
    this.#entry = entry
    this.#region = 0
    this.#at = 0
    this.#pieces.push(encodeTarHeader(entry))
  }

  data(bytes: Buffer): void {
    const sparse = this.#entry?.sparse
    for (let used = 0; used < bytes.length; ) {
      const region = sparse?.[this.#region] ?? { offset: 0, size: Number.POSITIVE_INFINITY }
      if (sparse) this.#zeros(region.offset)
      const end = region.offset + region.size
      const taken = Math.min(end - this.#at, bytes.length - used)
      this.#pieces.push(bytes.subarray(used, used + taken))
      used += taken
      this.#at += taken
      if (this.#at === end) this.#region++
    }
  }

  entryEnd(): void {
    const { size } = this.#entry as TarEntry
    this.#zeros(size)
    this.#pieces.push(tarPadding(size))
  }

  /** What there is to write, in order. */
  *take(): Generator<Buffer> {
    for (const piece of this.#pieces) {
      if (typeof piece !== "number") yield piece
      else for (let left = piece; left > 0; left -= ZEROS.length) yield ZEROS.subarray(0, left)
    }
    this.#pieces = []
  }

  /** Up to a position in the file. */
  #zeros(position: number): void {
    if (position > this.#at) this.#pieces.push(position - this.#at)
    this.#at = Math.max(this.#at, position)
  }
}
