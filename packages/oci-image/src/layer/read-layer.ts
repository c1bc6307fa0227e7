import { createHash } from "node:crypto"
import { type Digest, finishDigest } from "../digest.js"
import { ImageError, isImageError } from "../errors.js"
import type { ImageLimits } from "../limits.js"
import type { VerifiedBlob } from "../sources/blob.js"
import type { Compression } from "../spec/media-types.js"
import { decompress } from "./decompress.js"
import { LayerTree } from "./layer-tree.js"
import type { PartWriter } from "./part-writer.js"
import { type TarEntry, type TarHandler, TarReader } from "./tar-reader.js"
import type { TreeNode } from "./tree.js"

/** What reading a layer needs. */
export interface ReadLayerOptions {
  readonly blob: VerifiedBlob
  readonly compression: Compression
  /** Receives file contents. */
  readonly part: PartWriter
  readonly limits: ImageLimits
  /** Sees every compressed chunk, for keeping the blob. */
  readonly tee?: (chunk: Buffer) => Promise<void>
}

/** A layer that was read to its proven end. */
export interface ReadLayer {
  /** Digest of the tar stream. */
  readonly diffId: Digest
  readonly root: TreeNode
}

/**
 * Reads one layer in one pass: blob bytes in, file contents into the data part, the tree in memory. Content
 * is checked against the blob's digest before this resolves; until then nothing may be used.
 *
 * @throws ImageError what blob, decompression, tar stream and entries throw. A blob that is both malformed and
 * not the one it claims to be is reported as the latter.
 */
export async function readLayer(options: ReadLayerOptions): Promise<ReadLayer> {
  const { blob } = options
  try {
    return await decode(options)
  } catch (error) {
    if (isFormatError(error)) await blameDigestFirst(blob, error)
    throw error
  } finally {
    await blob.close()
  }
}

async function decode({ blob, compression, part, limits, tee }: ReadLayerOptions): Promise<ReadLayer> {
  const hash = createHash("sha256")
  const tree = new LayerTree(limits)
  const tar = new TarReader(new PartFiller(tree, part), limits)
  const input = tee ? new TeedInput(blob, tee) : blob
  for await (const chunk of decompress(input, compression, limits)) {
    hash.update(chunk)
    tar.push(chunk)
    await part.drain()
  }
  await blob.drain()
  tar.end()
  await part.finish()
  return { diffId: finishDigest(hash), root: tree.root }
}

/** Puts the contents of a tar stream into a part and its entries into a tree. */
class PartFiller implements TarHandler {
  readonly #tree: LayerTree
  readonly #part: PartWriter
  #wanted = false

  constructor(tree: LayerTree, part: PartWriter) {
    this.#tree = tree
    this.#part = part
  }

  entry(entry: TarEntry): void {
    const node = this.#tree.add(entry)
    this.#wanted = node?.kind === "file"
    if (node?.kind === "file" && entry.type === "file") node.block = entry.size > 0 ? this.#part.block : 0
  }

  data(bytes: Buffer): void {
    if (this.#wanted) this.#part.append(bytes)
  }

  entryEnd(): void {
    this.#part.pad()
  }
}

class TeedInput {
  readonly #blob: VerifiedBlob
  readonly #tee: (chunk: Buffer) => Promise<void>

  constructor(blob: VerifiedBlob, tee: (chunk: Buffer) => Promise<void>) {
    this.#blob = blob
    this.#tee = tee
  }

  get bytesRead(): number {
    return this.#blob.bytesRead
  }

  async next(): Promise<Buffer | undefined> {
    const chunk = await this.#blob.next()
    if (chunk) await this.#tee(chunk)
    return chunk
  }
}

function isFormatError(error: unknown): boolean {
  return isImageError(error) && /^(tar-|compression-|media-type)/.test(error.code)
}

async function blameDigestFirst(blob: VerifiedBlob, cause: unknown): Promise<void> {
  try {
    await blob.drain()
  } catch (error) {
    if (isImageError(error)) throw new ImageError(error.code, error.message, error.fields, { cause })
    throw error
  }
}
