import { type FileHandle, open } from "node:fs/promises"
import { addAbortSignal, Readable } from "node:stream"
import { ImageError, ioError, printable } from "../errors.js"
import { type CompressedInput, decompress, sniffCompression } from "../layer/decompress.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { type PackItem, tarStream } from "../pack/items.js"
import { walkFolder } from "../pack/walk.js"
import { readRange } from "../sources/beneath.js"
import { bringImage } from "./bring.js"
import type { StoreContext } from "./context.js"
import type { LoadOptions } from "./load-options.js"
import { loadPacked } from "./load-text.js"
import type { PackSourceOptions } from "./pack-source.js"
import type { ImageRecord, StoredImage } from "./stored-image.js"

/** What an image made of files says, besides them. Names and progress are as for loading. */
export interface ImportOptions extends LoadOptions {
  /** How to run it. Default: nothing is said. */
  readonly config?: NonNullable<PackSourceOptions["config"]>
}

/** How a folder becomes an image. */
export interface BuildOptions extends ImportOptions {
  /**
   * Seconds since the epoch: later times of files are cut down to it, so that copies of a folder that were made at
   * different times give one image. Default: times are kept.
   */
  readonly latestTime?: number
  /** Owner of every file. Default: owners are kept. */
  readonly owner?: { readonly uid: number; readonly gid: number }
}

/** Makes an image of a folder. @see ImageStore.buildRootfs */
export async function buildRootfs(
  context: StoreContext,
  path: string,
  options: BuildOptions,
): Promise<StoredImage> {
  const layer = { tar: tarStream(changed(walkFolder(path), options)) }
  return bringImage(context, options, () => loadPacked(context, layer, options))
}

async function* changed(
  items: AsyncIterable<PackItem>,
  { latestTime = Number.POSITIVE_INFINITY, owner }: BuildOptions,
): AsyncGenerator<PackItem> {
  const cut = { seconds: latestTime, nanoseconds: 0 }
  for await (const item of items) {
    const mtime = item.header.mtime.seconds >= latestTime ? cut : item.header.mtime
    yield { ...item, header: { ...item.header, ...owner, mtime } }
  }
}

/** Makes an image of a tar stream. @see ImageStore.importTar */
export async function importTar(
  context: StoreContext,
  source: string | AsyncIterable<Uint8Array>,
  options: ImportOptions,
): Promise<StoredImage> {
  // At once: a stream may fail while a lease is waited for.
  if (source instanceof Readable) takeCharge(source, options.signal)
  return bringImage(context, options, () =>
    typeof source === "string" ? loadFile(context, source, options) : loadStream(context, source, options),
  )
}

function takeCharge(stream: Readable, signal: AbortSignal | undefined): void {
  // Whoever reads it is told; the event must not end the process.
  stream.on("error", () => undefined)
  // It may never come to its next chunk, at which the signal would be looked at: a terminal, say.
  if (signal) addAbortSignal(signal, stream)
}

async function loadFile(context: StoreContext, path: string, options: ImportOptions): Promise<ImageRecord> {
  const file = await openTar(path)
  try {
    return await loadStream(context, readRange(file, 0, Number.POSITIVE_INFINITY), options)
  } finally {
    await file.close()
  }
}

async function openTar(path: string): Promise<FileHandle> {
  const file = await open(path, "r").catch(error => {
    if (error.code === "ENOENT")
      throw new ImageError("source-missing", `no such file: ${printable(path)}`, { path })
    throw ioError(error, `cannot open ${printable(path)}`)
  })
  if ((await file.stat()).isFile()) return file
  await file.close()
  throw new ImageError("source-invalid", `not a regular file: ${printable(path)}`, { path })
}

async function loadStream(
  context: StoreContext,
  chunks: AsyncIterable<Uint8Array>,
  options: ImportOptions,
): Promise<ImageRecord> {
  const input = new StreamInput(chunks, context.limits)
  try {
    return await loadPacked(context, { tar: unpacked(input, context.limits) }, options)
  } catch (error) {
    options.signal?.throwIfAborted()
    throw error
  } finally {
    await input.close()
  }
}

/** Unpacks what the stream turns out to be: nobody says what it is, other than of a layer in a manifest. */
async function* unpacked(input: StreamInput, limits: ImageLimits): AsyncGenerator<Buffer> {
  const head = await input.peek()
  if (head.length === 0) throw new ImageError("source-invalid", "the tar stream is empty")
  yield* decompress(input, sniffCompression(head), limits)
}

/** Enough to recognise a format. */
const HEAD_SIZE = 4

/** A stream of unknown length, bounded, whose first bytes can be looked at before it is read. */
class StreamInput implements CompressedInput {
  readonly #chunks: AsyncIterator<Uint8Array>
  readonly #limits: ImageLimits
  #head: Buffer | undefined
  bytesRead = 0

  constructor(chunks: AsyncIterable<Uint8Array>, limits: ImageLimits) {
    this.#chunks = chunks[Symbol.asyncIterator]()
    this.#limits = limits
  }

  async peek(): Promise<Buffer> {
    let head: Buffer = Buffer.alloc(0)
    while (head.length < HEAD_SIZE) {
      const chunk = await this.#read()
      if (!chunk) break
      head = Buffer.concat([head, chunk])
    }
    this.#head = head
    return head
  }

  async next(): Promise<Buffer | undefined> {
    const head = this.#head
    this.#head = undefined
    return head && head.length > 0 ? head : this.#read()
  }

  async #read(): Promise<Buffer | undefined> {
    const { done, value } = await this.#chunks.next()
    if (done) return undefined
    this.bytesRead += value.length
    checkLimit("blobBytes", this.bytesRead, this.#limits.blobBytes, "size of the tar stream")
    return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  }

  /** Lets the stream close its file; needed when reading stops early. */
  async close(): Promise<void> {
    await this.#chunks.return?.()
  }
}
