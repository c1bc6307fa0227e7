import { ImageError, printable } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { nameMeaning, splitPath } from "./names.js"
import type { TarEntry } from "./tar-reader.js"
import { implicitDirectory, TreeNode } from "./tree.js"

/** PATH_MAX without the NUL: the longest symlink text Linux has. */
export const SYMLINK_MAX = 4095
/** The largest major number of Linux as file systems store it. @see linux/kdev_t.h, new_encode_dev */
export const MAJOR_MAX = 0xfff
/** The largest minor number. */
export const MINOR_MAX = 0xfffff

/** Attribute names that the guest's file system can carry; others (macOS leaves some) are left out. */
const KNOWN_XATTR = /^(?:(?:user|trusted|security)\..|system\.posix_acl_(?:access|default)$)/s
/** What overlayfs believes about its layers must not come from an image. */
const OVERLAY_XATTR = /^(?:user|trusted)\.overlay\./

/**
 * Builds the tree of one layer from its entries in stream order: a later entry wins over an earlier one of the
 * same name, directories merge, whiteouts are kept apart for the merge with lower layers. No path is ever
 * resolved through a link: an entry below one is refused.
 */
export class LayerTree {
  readonly root = implicitDirectory()
  readonly #limits: ImageLimits
  /** Nodes made so far, also those replaced since. */
  #nodes = 1
  /** Bytes of attributes and texts of all of them. */
  #textBytes = 0

  constructor(limits: ImageLimits) {
    this.#limits = limits
  }

  /**
   * Adds an entry.
   *
   * @returns the new node, or undefined for a whiteout
   * @throws ImageError `entry-*`, `link-target`, `whiteout`, `limit`
   */
  add(entry: TarEntry): TreeNode | undefined {
    const components = splitPath(entry.path, this.#limits)
    this.#countText(entry)
    if (entry.type !== "directory" && /\/\.?$/.test(entry.path)) {
      throw new ImageError(
        "entry-name",
        `${entry.type} has the name of a directory: ${printable(entry.path)}`,
      )
    }
    const name = components.at(-1)
    if (name === undefined) return this.#addRoot(entry)
    const meaning = nameMeaning(components)
    switch (meaning.kind) {
      case "ignored":
        return undefined
      case "plain":
        return this.#addNode(entry, this.#parent(components), name, components)
    }
    if (entry.type !== "file" || entry.size !== 0) {
      throw new ImageError("whiteout", `whiteout is not an empty file: ${printable(entry.path)}`)
    }
    const parent = this.#parent(components)
    if (meaning.kind === "opaque") parent.opaque = true
    else this.#hide(parent, meaning.hides)
    return undefined
  }

  #hide(parent: TreeNode, name: string): void {
    this.#count()
    parent.whiteouts ??= new Set()
    parent.whiteouts.add(name)
  }

  #addRoot(entry: TarEntry): TreeNode {
    if (entry.type !== "directory")
      throw new ImageError("entry-name", `the root is a ${entry.type}: ${printable(entry.path)}`)
    return describe(this.root, entry)
  }

  #addNode(entry: TarEntry, parent: TreeNode, name: string, components: readonly string[]): TreeNode {
    const children = parent.children as Map<string, TreeNode>
    const existing = children.get(name)
    if (entry.type === "directory" && existing?.kind === "directory") return describe(existing, entry)
    const node =
      entry.type === "link" ? this.#link(entry, components) : describe(this.#make(entry.type), entry)
    children.set(name, node)
    return node
  }

  #make(kind: TreeNode["kind"]): TreeNode {
    this.#count()
    return new TreeNode(kind)
  }

  #count(): void {
    checkLimit("entries", ++this.#nodes, this.#limits.entries, "entries of the layer")
  }

  #countText({ xattrs, type, linkPath }: TarEntry): void {
    for (const [name, value] of xattrs ?? []) this.#textBytes += name.length + value.length
    if (type === "symlink") this.#textBytes += linkPath.length
    const what = "extended attributes and symlinks of the layer"
    checkLimit("layerTextBytes", this.#textBytes, this.#limits.layerTextBytes, what)
  }

  /** The directory that holds the last component; directories that no entry described are made up. */
  #parent(components: readonly string[]): TreeNode {
    let at = this.root
    for (let i = 0; i < components.length - 1; i++) {
      const children = at.children as Map<string, TreeNode>
      const name = components[i] as string
      let next = children.get(name)
      if (next === undefined) {
        this.#count()
        next = implicitDirectory()
        children.set(name, next)
      } else if (next.kind !== "directory") throw throughLink(components, next)
      at = next
    }
    return at
  }

  #link(entry: TarEntry, own: readonly string[]): TreeNode {
    const components = splitPath(entry.linkPath, this.#limits)
    const wrong = (why: string) =>
      new ImageError(
        "link-target",
        `hard link ${printable(entry.path)} to ${printable(entry.linkPath)}: ${why}`,
      )
    if (components.length === 0) throw wrong("is the root")
    if (nameMeaning(components).kind !== "plain") throw wrong("is a whiteout")
    if (components.join("/") === own.join("/")) throw wrong("is itself")
    let at: TreeNode | undefined = this.root
    for (const [i, name] of components.entries()) {
      at = at.children?.get(name)
      if (at === undefined) break
      if (i < components.length - 1 && at.kind !== "directory") throw wrong("leads through a link or file")
    }
    if (at?.kind === "directory") throw wrong("is a directory")
    if (at) return at
    const node = this.#make("link")
    node.target = components.join("/")
    return node
  }
}

function throughLink(components: readonly string[], node: TreeNode): ImageError {
  const path = printable(components.join("/"))
  return new ImageError("entry-through-link", `entry ${path} lies below a ${node.kind}, not a directory`, {
    path,
  })
}

function describe(node: TreeNode, entry: TarEntry): TreeNode {
  node.implicit = false
  node.mode = entry.mode
  node.uid = entry.uid
  node.gid = entry.gid
  node.setTime(entry.mtime)
  node.xattrs = usableXattrs(entry)
  switch (entry.type) {
    case "file":
      node.size = entry.size
      break
    case "symlink":
      node.target = symlinkText(entry)
      break
    case "char":
    case "block":
      node.major = deviceNumber(entry, entry.devmajor, MAJOR_MAX)
      node.minor = deviceNumber(entry, entry.devminor, MINOR_MAX)
      break
  }
  return node
}

function symlinkText(entry: TarEntry): string {
  const { length } = entry.linkPath
  if (length > 0 && length <= SYMLINK_MAX && !entry.linkPath.includes("\0")) return entry.linkPath
  throw new ImageError(
    "entry-name",
    `symlink ${printable(entry.path)} has a text of ${length} bytes, or with NUL`,
    { length },
  )
}

function deviceNumber(entry: TarEntry, number: number, max: number): number {
  if (number >= 0 && number <= max) return number
  throw new ImageError(
    "entry-device",
    `device number ${number} of ${printable(entry.path)} is out of range`,
    { number, max },
  )
}

/** Whether a guest gets to see an attribute of this name. */
export function isUsableXattr(name: string): boolean {
  return KNOWN_XATTR.test(name) && !OVERLAY_XATTR.test(name)
}

function usableXattrs(entry: TarEntry): ReadonlyMap<string, Buffer> | undefined {
  if (!entry.xattrs) return undefined
  const usable = [...entry.xattrs].filter(([name]) => isUsableXattr(name))
  if (usable.some(([name]) => name.includes("\0")))
    throw new ImageError("entry-xattr", "attribute name has a NUL")
  return usable.length > 0 ? new Map(usable.sort(([a], [b]) => (a < b ? -1 : 1))) : undefined
}
