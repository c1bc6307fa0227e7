import { BLOCK_SIZE } from "../erofs/defs.js"
import { splitPath } from "../layer/names.js"
import { type TarEntry, type TarHandler, TarReader } from "../layer/tar-reader.js"
import type { TreeNode } from "../layer/tree.js"
import type { ImageLimits } from "../limits.js"
import type { Run } from "./span-index.js"

interface Place {
  offset: number
  readonly size: number
}

/** Finds where the files of a layer stand in its tar stream. */
export class FileRuns implements TarHandler {
  readonly #limits: ImageLimits
  readonly #tar: TarReader
  /** By path; a later entry of the same path wins, as it does in the tree. */
  readonly #places = new Map<string, Place>()
  #current: Place | undefined
  #chunk: Buffer = Buffer.alloc(0)
  /** Where the chunk at hand begins in the stream. */
  #at = 0

  constructor(limits: ImageLimits) {
    this.#limits = limits
    this.#tar = new TarReader(this, limits, { sparse: true })
  }

  push(chunk: Buffer): void {
    this.#chunk = chunk
    this.#tar.push(chunk)
    this.#at += chunk.length
  }

  /** @internal */
  entry(entry: TarEntry): void {
    const path = splitPath(entry.path, this.#limits).join("/")
    // Content of a sparse file is not in the stream as it is in the file.
    const isPlain = entry.type === "file" && !entry.sparse
    this.#current = isPlain ? { offset: -1, size: entry.size } : undefined
    if (this.#current) this.#places.set(path, this.#current)
    else this.#places.delete(path)
  }

  /** @internal */
  data(bytes: Buffer): void {
    // A reader hands out pieces of what it was given, and no copies.
    if (this.#current && this.#current.offset < 0)
      this.#current.offset = this.#at + bytes.byteOffset - this.#chunk.byteOffset
  }

  /** @internal */
  entryEnd(): void {
    this.#current = undefined
  }

  /**
   * Matches the layer's tree, as it was stored, with the stream.
   *
   * @returns undefined when the content of a file is nowhere in one piece
   */
  match(root: TreeNode): Run[] | undefined {
    const runs = new Map<number, Run>()
    const wanted = new Map<number, number>()
    for (const [path, { block, size }] of filesOf(root)) {
      wanted.set(block, Math.max(size, wanted.get(block) ?? 0))
      const place = this.#places.get(path)
      if (place && place.size === size && place.offset >= 0)
        runs.set(block, { position: block * BLOCK_SIZE, offset: place.offset, size })
    }
    const isCovered = [...wanted].every(([block, size]) => runs.get(block)?.size === size)
    return isCovered ? [...runs.values()].sort((a, b) => a.position - b.position) : undefined
  }
}

function* filesOf(directory: TreeNode, prefix = ""): Generator<[string, TreeNode]> {
  for (const [name, node] of directory.children ?? []) {
    if (node.kind === "directory") yield* filesOf(node, `${prefix}${name}/`)
    else if (node.kind === "file" && node.size > 0) yield [prefix + name, node]
  }
}
