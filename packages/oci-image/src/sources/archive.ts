import { type FileHandle, open } from "node:fs/promises"
import { digestHex } from "../digest.js"
import { ImageError, ioError, printable } from "../errors.js"
import { sniffCompression } from "../layer/decompress.js"
import { splitPath } from "../layer/names.js"
import { TAR_BLOCK } from "../layer/tar-header.js"
import { type TarEntry, TarReader } from "../layer/tar-reader.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { collect, readRange } from "./beneath.js"
import type { BlobRequest } from "./blob.js"
import { DockerArchiveSource } from "./docker-archive.js"
import { type LayoutFiles, LayoutSource } from "./layout.js"
import type { ImageSource } from "./source.js"

const WINDOW = 64 * 1024

/** A file inside an archive. */
export interface ArchiveFile {
  readonly offset: number
  readonly size: number
}

/** A tar archive that was read once, for where its files are; their content is read from there when asked for. */
export class Archive implements LayoutFiles {
  readonly #file: FileHandle
  readonly #files: ReadonlyMap<string, ArchiveFile>

  private constructor(file: FileHandle, files: ReadonlyMap<string, ArchiveFile>) {
    this.#file = file
    this.#files = files
  }

  /** @throws ImageError `source-missing`, `archive-invalid`, `tar-*`, `limit`, `io` */
  static async open(path: string, limits: ImageLimits): Promise<Archive> {
    const file = await open(path, "r").catch(error => {
      if (error.code === "ENOENT")
        throw new ImageError("source-missing", `no such file: ${printable(path)}`, { path })
      throw ioError(error, `cannot open ${printable(path)}`)
    })
    try {
      return new Archive(file, await new ArchiveScan(file, limits).run())
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /** Finds a file by its name in the archive. */
  find(name: string): ArchiveFile | undefined {
    return this.#files.get(name)
  }

  /** Reads a file, or the start of it. */
  async *read(file: ArchiveFile, max = file.size): AsyncGenerator<Buffer> {
    yield* readRange(this.#file, file.offset, file.offset + Math.min(max, file.size))
  }

  /** Reads a small file whole; undefined when it is not there. @throws ImageError `limit` */
  async readTop(name: string, max: number): Promise<Buffer | undefined> {
    const file = this.find(name)
    if (!file) return undefined
    checkLimit("documentBytes", file.size, max, `size of ${printable(name)}`)
    return collect(this.read(file))
  }

  async *open({ digest, size }: BlobRequest): AsyncGenerator<Buffer> {
    const file = this.find(`blobs/sha256/${digestHex(digest)}`)
    if (!file) throw new ImageError("blob-missing", `the archive has no blob ${digest}`, { digest })
    yield* this.read(file, size + 1)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close()
  }
}

/** Goes through an archive from header to header. */
class ArchiveScan {
  readonly #file: FileHandle
  readonly #limits: ImageLimits
  readonly #files = new Map<string, ArchiveFile>()
  readonly #links: { name: string; target: string }[] = []
  #window: Buffer = Buffer.alloc(0)
  #windowAt = 0

  constructor(file: FileHandle, limits: ImageLimits) {
    this.#file = file
    this.#limits = limits
  }

  async run(): Promise<ReadonlyMap<string, ArchiveFile>> {
    const { size } = await this.#file.stat()
    await this.#checkKind()
    const reader = new TarReader(
      // Content begins right behind the header block that is being pushed.
      {
        entry: entry => this.#add(entry, reader.offset + TAR_BLOCK),
        data: () => undefined,
        entryEnd: () => undefined,
      },
      this.#limits,
    )
    while (reader.offset < size) {
      reader.push(await this.#block(reader.offset))
      reader.skipContent()
    }
    if (reader.offset > size) throw new ImageError("tar-truncated", "archive is cut off", { at: size })
    reader.end()
    this.#resolveLinks()
    return this.#files
  }

  async #checkKind(): Promise<void> {
    if (!(await this.#file.stat()).isFile())
      throw new ImageError("archive-invalid", "archive is not a regular file")
    const kind = sniffCompression(await this.#block(0))
    if (kind !== "none")
      throw new ImageError("archive-invalid", `archive is compressed with ${kind}; unpack it first`)
  }

  async #block(at: number): Promise<Buffer> {
    if (at < this.#windowAt || at + TAR_BLOCK > this.#windowAt + this.#window.length) {
      const buffer = Buffer.alloc(WINDOW)
      const { bytesRead } = await this.#file.read(buffer, 0, WINDOW, at)
      this.#window = buffer.subarray(0, bytesRead)
      this.#windowAt = at
    }
    return this.#window.subarray(at - this.#windowAt, at - this.#windowAt + TAR_BLOCK)
  }

  #add(entry: TarEntry, offset: number): void {
    if (entry.type === "directory") return
    const name = splitPath(entry.path, this.#limits).join("/")
    if (this.#files.has(name)) throw new ImageError("archive-invalid", `archive has ${printable(name)} twice`)
    checkLimit(
      "archiveEntries",
      this.#files.size + this.#links.length + 1,
      this.#limits.archiveEntries,
      "files of the archive",
    )
    if (entry.type === "file") this.#files.set(name, { offset, size: entry.size })
    else if (entry.type === "link") this.#links.push({ name, target: entry.linkPath })
    else if (entry.type === "symlink") this.#links.push({ name, target: besideLink(name, entry.linkPath) })
  }

  /** Old docker versions store a layer that occurs twice as a link to the first; one step is followed. */
  #resolveLinks(): void {
    for (const { name, target } of this.#links) {
      const file = this.#files.get(splitPath(target, this.#limits).join("/"))
      if (!file || this.#files.has(name))
        throw new ImageError("archive-invalid", `link ${printable(name)} leads nowhere`)
      this.#files.set(name, file)
    }
  }
}

/** The archive path of a relative symlink; `..` takes away a component of the link's own folder, at most all of them. */
function besideLink(name: string, text: string): string {
  const path = name.split("/").slice(0, -1)
  for (const component of text.split("/")) {
    if (component === "..") path.pop()
    else path.push(component)
  }
  return path.join("/")
}

/**
 * Opens an archive that holds images.
 *
 * @param kind - which of its two descriptions to read; `any` prefers the OCI one, since newer docker versions
 * write both
 * @throws ImageError `archive-invalid`, and what {@link Archive.open} throws
 */
export async function openArchive(
  path: string,
  kind: "oci-archive" | "docker-archive" | "any",
  tag: string | undefined,
  limits: ImageLimits,
): Promise<ImageSource> {
  const archive = await Archive.open(path, limits)
  const isOci = archive.find("oci-layout") && archive.find("index.json")
  if (kind !== "docker-archive" && isOci) return new LayoutSource(archive, tag)
  if (kind !== "oci-archive" && archive.find("manifest.json")) return new DockerArchiveSource(archive, tag)
  await archive[Symbol.asyncDispose]()
  throw new ImageError("archive-invalid", `no image in the archive ${printable(path)}`, { path })
}
