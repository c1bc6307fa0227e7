import { ImageError, printable } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { findNode, implicitDirectory, TreeNode } from "./tree.js"

/** One layer for {@link mergeLayers}; its tree is taken over and changed. */
export interface MergeLayer {
  readonly root: TreeNode
  /** Which data part its files are in. */
  readonly part: number
}

/**
 * Stacks layers into the one tree that the guest sees. Whiteouts and opaque directories act on lower layers
 * only; a directory over a directory merges; anything else replaces, also a directory over a symlink (nothing
 * is resolved through links, as with overlayfs); hard links to lower files become names of those files.
 *
 * @param layers - lowest first
 * @throws ImageError `link-target`, `limit`
 * @see OCI image spec 1.1, layer.md, "Applying Changesets"
 */
export function mergeLayers(layers: Iterable<MergeLayer>, limits: ImageLimits): TreeNode {
  const root = implicitDirectory()
  let entries = 0
  for (const layer of layers) {
    const step = new LayerMerge(root, layer.part)
    entries += step.prepare(layer.root)
    checkLimit("entries", entries, limits.entries, "entries of all layers")
    step.merge(root, layer.root)
  }
  return root
}

class LayerMerge {
  readonly #lower: TreeNode
  readonly #part: number
  readonly #links = new Map<TreeNode, TreeNode>()

  constructor(lower: TreeNode, part: number) {
    this.#lower = lower
    this.#part = part
  }

  /**
   * Before anything of the lower tree goes: resolves links into it, and says where files' contents are.
   *
   * @returns the number of names
   */
  prepare(directory: TreeNode): number {
    let names = directory.children?.size ?? 0
    for (const node of directory.children?.values() ?? []) {
      if (node.kind === "directory") names += this.prepare(node)
      else if (node.kind === "link" && !this.#links.has(node)) this.#links.set(node, this.#resolve(node))
      else if (node.kind === "file") node.part = this.#part
    }
    return names
  }

  #resolve(link: TreeNode): TreeNode {
    const target = findNode(this.#lower, link.target.split("/"))
    if (target && target.kind !== "directory") return target
    const why = target ? "is a directory" : "does not exist in this layer or below"
    throw new ImageError("link-target", `hard link target ${printable(link.target)} ${why}`, {
      target: printable(link.target),
    })
  }

  merge(lower: TreeNode, upper: TreeNode): void {
    const children = lower.children as Map<string, TreeNode>
    if (upper.opaque) children.clear()
    for (const name of upper.whiteouts ?? []) children.delete(name)
    if (!upper.implicit) lower.copyMetadata(upper)
    for (const [name, node] of upper.children ?? []) this.#put(children, name, node)
  }

  #put(children: Map<string, TreeNode>, name: string, node: TreeNode): void {
    if (node.kind !== "directory") {
      children.set(name, this.#links.get(node) ?? node)
      return
    }
    const existing = children.get(name)
    if (existing?.kind === "directory") {
      this.merge(existing, node)
      return
    }
    // Whiteouts alone make no directory where there is none below.
    if (node.implicit && !hasContent(node)) return
    const fresh = new TreeNode("directory")
    fresh.copyMetadata(node)
    this.merge(fresh, node)
    children.set(name, fresh)
  }
}

function hasContent(directory: TreeNode): boolean {
  for (const node of directory.children?.values() ?? []) {
    if (node.kind !== "directory" || !node.implicit || hasContent(node)) return true
  }
  return false
}
