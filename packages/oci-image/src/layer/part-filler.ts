import { ContentsWriter } from "./contents.js"
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
  readonly contents = new ContentsWriter()
  #node: TreeNode | undefined
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
    else this.contents.begin(node.block, entry.size)
  }

  data(bytes: Buffer): void {
    if (!this.#node) return
    if (this.#sparse) this.#sparse.append(bytes)
    else {
      this.contents.append(bytes)
      this.#part.append(bytes)
    }
  }

  entryEnd(): void {
    const node = this.#node
    if (!node) return
    this.#part.pad()
    if (this.#sparse) node.runs = this.#sparse.runs(node.size)
    else this.#share(node, this.contents.end())
    this.#node = this.#sparse = undefined
  }

  #share(node: TreeNode, hash: string | undefined): void {
    if (hash === undefined) return
    const first = this.#known.get(hash)
    if (first === undefined) {
      this.#known.set(hash, node.block)
      return
    }
    this.#part.rewind(node.block)
    this.contents.drop()
    node.block = first
  }
}
