import { gather } from "../chunks.js"
import { DiskContents, type ReadableDisk } from "../erofs/disk-contents.js"
import type { ErofsFile, ErofsMetadata } from "../erofs/read.js"
import { ImageError } from "../errors.js"
import { encodeTarHeader, tarEnd, tarPadding } from "../pack/tar-writer.js"

/** Small pieces are handed on together. */
const PIECE = 64 * 1024

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
  await using contents = new DiskContents(disk)
  yield* gather(new RootWalk(await contents.metadata(), contents).entries(), PIECE)
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

/** A hole of a sparse file, as a guest reads it. */
function* hole(size: number): Generator<Buffer> {
  for (let left = size; left > 0; left -= PIECE) yield Buffer.alloc(Math.min(PIECE, left))
}
