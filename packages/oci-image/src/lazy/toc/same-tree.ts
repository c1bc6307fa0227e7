import type { TreeNode } from "../../layer/tree.js"

/** A file as a table of contents and as the layer itself tells of it. */
export interface FilePair {
  readonly path: string
  readonly told: TreeNode
  readonly actual: TreeNode
}

/** Some writers round times to seconds. */
const TIME_TOLERANCE = 1

/**
 * Compares the tree of a table of contents with the layer's own: names, kinds, owners, modes, times, attributes, links
 * and whiteouts. Content is for {@link sameContent}.
 *
 * @param ignored - names in the root that only the layer has
 * @returns the files of both, or the path of the first difference
 */
export function sameTree(
  told: TreeNode,
  actual: TreeNode,
  ignored: ReadonlySet<string>,
): FilePair[] | { readonly differs: string } {
  const comparison = new Comparison()
  const differs = comparison.directory("", told, actual, ignored)
  return differs === undefined ? comparison.files : { differs }
}

class Comparison {
  readonly files: FilePair[] = []
  /** Two names of one file are two names of one file in both. */
  readonly #seen = new Map<TreeNode, TreeNode>()
  readonly #seenActual = new Set<TreeNode>()

  /** @returns the path of the first difference */
  directory(
    path: string,
    told: TreeNode,
    actual: TreeNode,
    ignored: ReadonlySet<string> = new Set(),
  ): string | undefined {
    if (!sameMetadata(told, actual)) return path || "/"
    const names = new Set([...(told.children?.keys() ?? []), ...(actual.children?.keys() ?? [])])
    for (const name of names) {
      if (ignored.has(name)) continue
      const differs = this.#node(`${path}/${name}`, told.children?.get(name), actual.children?.get(name))
      if (differs !== undefined) return differs
    }
    return undefined
  }

  #node(path: string, told: TreeNode | undefined, actual: TreeNode | undefined): string | undefined {
    if (!told || !actual || told.kind !== actual.kind) return path
    if (told.kind === "directory") return this.directory(path, told, actual)
    const before = this.#seen.get(told)
    if (before) return before === actual ? undefined : path
    if (this.#seenActual.has(actual) || !sameMetadata(told, actual)) return path
    this.#seen.set(told, actual)
    this.#seenActual.add(actual)
    if (told.kind === "file" && told.size > 0) this.files.push({ path, told, actual })
    return undefined
  }
}

function sameMetadata(a: TreeNode, b: TreeNode): boolean {
  const isSame =
    a.mode === b.mode && a.uid === b.uid && a.gid === b.gid && a.size === b.size && a.target === b.target
  const isSameNode = a.major === b.major && a.minor === b.minor && a.opaque === b.opaque
  return (
    isSame &&
    isSameNode &&
    a.implicit === b.implicit &&
    sameTime(a, b) &&
    sameXattrs(a, b) &&
    sameHidden(a, b)
  )
}

function sameTime(a: TreeNode, b: TreeNode): boolean {
  return Math.abs(a.mtime - b.mtime + (a.mtimeNsec - b.mtimeNsec) / 1e9) < TIME_TOLERANCE
}

function sameXattrs({ xattrs: a }: TreeNode, { xattrs: b }: TreeNode): boolean {
  return (
    (a?.size ?? 0) === (b?.size ?? 0) &&
    [...(a ?? [])].every(([name, value]) => b?.get(name)?.equals(value) === true)
  )
}

function sameHidden({ whiteouts: a }: TreeNode, { whiteouts: b }: TreeNode): boolean {
  return (a?.size ?? 0) === (b?.size ?? 0) && [...(a ?? [])].every(name => b?.has(name) === true)
}
