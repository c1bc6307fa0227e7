import { type FileHandle, open } from "node:fs/promises"
import { addAbortSignal, Readable } from "node:stream"
import { ImageError, ioError, printable } from "../errors.js"
import { StreamInput, unpacked } from "../layer/stream-input.js"
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
