import { type FileHandle, open, readFile } from "node:fs/promises"
import { gather } from "../chunks.js"
import { BLOCK_SIZE } from "../erofs/defs.js"
import { type ErofsFile, ErofsMetadata } from "../erofs/read.js"
import { ImageError, ioError } from "../errors.js"
import type { LazyDiskPart } from "../lazy/lazy-image.js"
import { encodeTarHeader, tarEnd, tarPadding } from "../pack/tar-writer.js"
import { readRange } from "../sources/beneath.js"

/** Small pieces are handed on together. */
const PIECE = 64 * 1024
/** Content that may still have to arrive is waited for in pieces of this size. */
const STEP = 1024 * 1024

/** The files of an image's disk, all of which need not be there yet: `StoredImage` and `LazyImage` have one. */
export interface ReadableDisk {
  readonly parts: readonly LazyDiskPart[]
}

/**
 * An image's root as a tar stream, like `docker export`: what a guest that mounts the image's disk would see, layers
 * merged and whiteouts applied. Hard links, devices, owners, times and extended attributes are kept.
 *
 * @param disk - of an image in a store; what has not arrived yet is waited for
 * @throws ImageError `store-corrupt` for a disk that is damaged, `io`, and what fetching throws
 * @example
 * ```ts
 * import { createWriteStream } from "node:fs"
 * import { pipeline } from "node:stream/promises"
 * import { ImageStore } from "@ts-vmm/oci-image"
 * import { rootTar } from "@ts-vmm/oci-image/policy"
 *
 * const store = await ImageStore.open("./store")
 * const image = await store.get("debian:12")
 * if (image) await pipeline(rootTar(image.disk()), createWriteStream("debian.tar"))
 * ```
 */
export async function* rootTar(disk: ReadableDisk): AsyncGenerator<Buffer> {
  const [metadata, ...data] = disk.parts
  if (!metadata) throw new ImageError("store-corrupt", "an image without a disk")
  const bytes = await readFile(metadata.path).catch(error => {
    throw ioError(error, "cannot read the image store")
  })
  await using contents = new DiskContents(metadata.size, data)
  yield* gather(new RootWalk(new ErofsMetadata(bytes), contents).entries(), PIECE)
}

class RootWalk {
  readonly #metadata: ErofsMetadata
  readonly #contents: DiskContents
  /** First names of files that have several. */
  readonly #names = new Map<number, string>()
  #left: number

  constructor(metadata: ErofsMetadata, contents: DiskContents) {
    this.#metadata = metadata
    this.#contents = contents
    this.#left = metadata.namesMax
  }

  /** Depth first, in the order of names. */
  async *entries(): AsyncGenerator<Buffer> {
    const open = [this.#open(this.#metadata.root, "")]
    for (let level = open.at(-1); level; level = open.at(-1)) {
      const next = level.left.pop()
      if (!next) {
        open.pop()
        continue
      }
      const [name, file] = next
      const path = `${level.path}${name}`
      if (file.kind === "directory") {
        yield this.#header(file, `${path}/`)
        open.push(this.#open(file, `${path}/`))
      } else yield* this.#file(file, path)
    }
    yield tarEnd()
  }

  #open(directory: ErofsFile, path: string): { path: string; left: [string, ErofsFile][] } {
    const left = this.#metadata.entries(directory).reverse()
    this.#left -= left.length
    // A name takes room in one directory: there are more of them only when a directory is met twice.
    if (this.#left < 0) throw new ImageError("store-corrupt", "the directories of an image form a loop")
    return { path, left }
  }

  async *#file(file: ErofsFile, path: string): AsyncGenerator<Buffer> {
    const first = this.#names.get(file.nid)
    yield this.#header(file, path, first)
    if (first !== undefined) return
    if (file.nlink > 1) this.#names.set(file.nid, path)
    if (file.kind !== "file") return
    for (const { start, size } of this.#metadata.runs(file))
      yield* start === undefined ? hole(size) : this.#contents.read(start, size)
    yield tarPadding(file.size)
  }

  #header(file: ErofsFile, path: string, first?: string): Buffer {
    const { kind } = file
    const target = kind === "symlink" ? this.#metadata.target(file) : ""
    return encodeTarHeader({
      type: first === undefined ? kind : "link",
      path,
      linkPath: first ?? target,
      mode: file.mode,
      uid: file.uid,
      gid: file.gid,
      size: kind === "file" && first === undefined ? file.size : 0,
      mtime: file.mtime,
      devmajor: file.major,
      devminor: file.minor,
      xattrs: file.xattrs,
    })
  }
}

/** The data parts behind a disk's metadata. */
class DiskContents implements AsyncDisposable {
  readonly #parts: { readonly part: LazyDiskPart; readonly start: number; readonly end: number }[] = []
  readonly #open = new Map<string, FileHandle>()

  constructor(start: number, parts: readonly LazyDiskPart[]) {
    let end = start
    for (const part of parts) {
      this.#parts.push({ part, start: end, end: end + part.size })
      end += part.size
    }
  }

  /** Bytes of the disk, which lie in one part. */
  async *read(start: number, size: number): AsyncGenerator<Buffer> {
    if (size === 0) return
    const found = this.#parts.find(one => start >= one.start && start + size <= one.end)
    if (!found)
      throw new ImageError("store-corrupt", "the content of a file lies outside of the image's disk")
    const file = await this.#file(found.part.path)
    const end = start - found.start + size
    for (let at = start - found.start; at < end; at += STEP)
      yield* readStep(file, found.part, at, Math.min(STEP, end - at))
  }

  async #file(path: string): Promise<FileHandle> {
    const known = this.#open.get(path)
    if (known) return known
    const file = await open(path).catch(error => {
      throw ioError(error, "cannot read the image store")
    })
    this.#open.set(path, file)
    return file
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.#open.values()) await file.close()
  }
}

/** A hole of a sparse file, as a guest reads it. */
function* hole(size: number): Generator<Buffer> {
  for (let left = size; left > 0; left -= PIECE) yield Buffer.alloc(Math.min(PIECE, left))
}

async function* readStep(
  file: FileHandle,
  part: LazyDiskPart,
  at: number,
  size: number,
): AsyncGenerator<Buffer> {
  // What has not arrived reads as zeros, which nobody must take for the content.
  await part.prepare?.(at, size + (-size & (BLOCK_SIZE - 1)))
  let left = size
  for await (const bytes of readRange(file, at, at + size)) {
    left -= bytes.length
    yield bytes
  }
  if (left > 0) throw new ImageError("store-corrupt", "a data part of the image is too short")
}
