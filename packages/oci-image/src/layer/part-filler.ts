import { createHash, type Hash } from "node:crypto"
import { BLOCK_SIZE } from "../erofs/defs.js"
import type { LayerTree } from "./layer-tree.js"
import type { PartWriter } from "./part-writer.js"
import { SparseWriter } from "./sparse-writer.js"
import type { TarEntry, TarHandler } from "./tar-reader.js"
import type { TreeNode } from "./tree.js"

/**
 * Puts the contents of a tar stream into a part and its entries into a tree. Files of a block or more whose
 * content was there before point to the first one's blocks.
 */
export class PartFiller implements TarHandler {
  readonly #tree: LayerTree
  readonly #part: PartWriter
  /** First block of every content, by its hash. */
  readonly #known = new Map<string, number>()
  #node: TreeNode | undefined
  #hash: Hash | undefined
  #sparse: SparseWriter | undefined

  constructor(tree: LayerTree, part: PartWriter) {
    this.#tree = tree
    this.#part = part
  }

  entry(entry: TarEntry): void {
    const node = this.#tree.add(entry)
    if (!node || entry.type !== "file" || entry.size === 0) return
    node.block = this.#part.block
    this.#node = node
    if (entry.sparse) this.#sparse = new SparseWriter(this.#part, entry.sparse)
    else if (entry.size >= BLOCK_SIZE) this.#hash = createHash("sha256")
  }

  data(bytes: Buffer): void {
    if (!this.#node) return
    this.#hash?.update(bytes)
    if (this.#sparse) this.#sparse.append(bytes)
    else this.#part.append(bytes)
  }

  entryEnd(): void {
    const node = this.#node
    if (!node) return
    this.#part.pad()
    if (this.#sparse) node.runs = this.#sparse.runs(node.size)
    if (this.#hash) this.#share(node, this.#hash.digest("binary"))
    this.#node = this.#hash = this.#sparse = undefined
  }

  #share(node: TreeNode, hash: string): void {
    const first = this.#known.get(hash)
    if (first === undefined) {
      this.#known.set(hash, node.block)
      return
    }
    this.#part.rewind(node.block)
    node.block = first
  }
}
