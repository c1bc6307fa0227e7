import { createHash } from "node:crypto"
import { checkDigest, type Digest, finishDigest } from "../digest.js"
import { ImageError, isImageError } from "../errors.js"
import { checkLimit } from "../limits.js"

/** What is asked of a {@link BlobSource}: a digest, and the size its descriptor declares. */
export interface BlobRequest {
  readonly digest: Digest
  readonly size: number
  /** What the descriptor says it is: a registry keeps manifests elsewhere than other content. */
  readonly mediaType?: string
}

/**
 * Where content comes from: a folder, an archive, later a registry. It is not trusted: whoever reads from it
 * checks size and digest ({@link VerifiedBlob}). Every chunk is a fresh buffer that the reader may keep.
 */
export interface BlobSource {
  /**
   * Opens content for reading from its start.
   *
   * @throws ImageError `blob-missing` (at the first read at the latest), `io`
   */
  open(request: BlobRequest, signal?: AbortSignal): AsyncIterable<Buffer>
  /**
   * Reads a part of the content, which cannot be proven by its digest; absent where there is no way to.
   *
   * @param from - first byte
   * @param to - byte after the last; at most 64 MiB after the first
   * @returns exactly that many bytes
   * @throws ImageError `blob-missing`, `io`, `registry-…`
   */
  range?(request: BlobRequest, from: number, to: number, signal?: AbortSignal): Promise<Buffer>
  /**
   * Is told that what {@link open} gave was not the content, or not all of it; absent where there is one place only.
   *
   * @returns whether there is another place, which the next {@link open} asks
   */
  reject?(request: BlobRequest, why: ImageError): boolean
}

/** Trouble with one place that another may not have. */
const OF_ONE_PLACE: ReadonlySet<string> = new Set([
  "registry-protocol",
  "registry-timeout",
  "registry-unavailable",
])

/**
 * Does something that reads content to its proven end, and does it again while what came was wrong and the source has
 * another place to take it from.
 *
 * @param read - opens the content itself, and leaves nothing behind when it fails
 */
export async function fromAnyPlace<T>(
  source: BlobSource,
  request: BlobRequest,
  read: () => Promise<T>,
): Promise<T> {
  for (;;) {
    try {
      return await read()
    } catch (error) {
      if (!isImageError(error) || !isOfPlace(error, request)) throw error
      if (!source.reject?.(request, error)) throw error
    }
  }
}

/** Whether it is the place's fault; a layer that unpacks to something else than the image says is everywhere. */
function isOfPlace({ code, fields }: ImageError, { digest }: BlobRequest): boolean {
  if (code === "digest-mismatch") return fields["expected"] === digest
  if (code === "size-mismatch") return fields["digest"] === digest
  return OF_ONE_PLACE.has(code)
}

/**
 * Reads a blob and proves it: not a byte more than declared is handed out, and the end is only reached when
 * size and digest are right.
 */
export class VerifiedBlob {
  readonly #request: BlobRequest
  readonly #what: string
  readonly #chunks: AsyncIterator<Buffer>
  readonly #hash = createHash("sha256")
  readonly #signal: AbortSignal | undefined
  #ended = false
  /** Bytes handed out so far. */
  bytesRead = 0

  /**
   * @param what - names the content in messages, e.g. `layer`
   */
  constructor(source: BlobSource, request: BlobRequest, what: string, signal?: AbortSignal) {
    this.#request = request
    this.#what = `${what} ${request.digest}`
    this.#signal = signal
    this.#chunks = source.open(request, signal)[Symbol.asyncIterator]()
  }

  /**
   * The next chunk, or undefined at the proven end.
   *
   * @throws ImageError `size-mismatch`, `digest-mismatch`, and what the source throws
   */
  async next(): Promise<Buffer | undefined> {
    if (this.#ended) return undefined
    this.#signal?.throwIfAborted()
    const { done, value } = await this.#chunks.next()
    if (done) return this.#finish()
    this.bytesRead += value.length
    if (this.bytesRead > this.#request.size) throw this.#wrongSize(this.bytesRead)
    this.#hash.update(value)
    return value
  }

  /** Reads and checks the rest without handing it out. */
  async drain(): Promise<void> {
    while (await this.next());
  }

  /** Lets the source close its file; needed when reading stops early. */
  async close(): Promise<void> {
    await this.#chunks.return?.()
  }

  #finish(): undefined {
    if (this.bytesRead !== this.#request.size) throw this.#wrongSize(this.bytesRead)
    this.#ended = true
    checkDigest(this.#what, this.#request.digest, finishDigest(this.#hash))
  }

  #wrongSize(actual: number): ImageError {
    const expected = this.#request.size
    const got = actual > expected ? "more" : `${actual}`
    return new ImageError(
      "size-mismatch",
      `size mismatch for ${this.#what}: expected ${expected} bytes, got ${got}`,
      {
        digest: this.#request.digest,
        expected,
        actual,
      },
    )
  }
}

/**
 * Reads a whole document (manifest, index, config) into memory and proves it.
 *
 * @param max - largest size that is read at all
 * @throws ImageError `limit`, `size-mismatch`, `digest-mismatch`, `blob-missing`, `io`
 */
export async function readDocument(
  source: BlobSource,
  request: BlobRequest,
  what: string,
  max: number,
  signal?: AbortSignal,
): Promise<Buffer> {
  checkLimit("documentBytes", request.size, max, `size of ${what}`)
  return fromAnyPlace(source, request, async () => {
    const blob = new VerifiedBlob(source, request, what, signal)
    try {
      const chunks: Buffer[] = []
      for (let chunk = await blob.next(); chunk; chunk = await blob.next()) chunks.push(chunk)
      return Buffer.concat(chunks)
    } finally {
      await blob.close()
    }
  })
}
