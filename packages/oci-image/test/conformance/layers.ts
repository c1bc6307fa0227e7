// Files and layers for the cases about layer.md.
import type { PackFile } from "../../src/pack/items.js"
import type { SeenFile } from "../../src/test-support/erofs-reader.js"
import { load, type Outcome, put, seen } from "./kit.js"

/** Lowest first. */
export type Layers = readonly (readonly PackFile[])[]

/** Bits of a mode that say what a file is. */
export const TYPE = 0o170000
export const DIRECTORY = 0o040000
export const REGULAR = 0o100000

export const dir = (path: string, more: Partial<PackFile> = {}): PackFile => ({ path: `${path}/`, ...more })
export const file = (path: string, content = "", more: Partial<PackFile> = {}): PackFile => ({
  path,
  content,
  ...more,
})
export const link = (path: string, target: string): PackFile => ({ path, type: "link", target })
export const symlink = (path: string, target: string): PackFile => ({ path, type: "symlink", target })

/** One of each kind, at `x`. */
export const KINDS: Readonly<Record<string, readonly PackFile[]>> = {
  "a file": [file("x", "new")],
  "a directory": [dir("x"), file("x/inside", "in")],
  "a symlink": [symlink("x", "target")],
  "a character device": [{ path: "x", type: "char", major: 1, minor: 3 }],
  "a block device": [{ path: "x", type: "block", major: 8, minor: 1 }],
  "a FIFO": [{ path: "x", type: "fifo" }],
  "a hard link": [file("y", "linked"), link("x", "y")],
}
/** Loads an image of these layers. */
export const loadLayers = (layers: Layers): Promise<Outcome> =>
  load(layout => layout.index([put(layout, { files: layers })]))

/** What a guest sees of an image that has to load. */
export async function filesOf(layers: Layers): Promise<Map<string, SeenFile>> {
  const files = seen(await loadLayers(layers))
  if (typeof files === "string") throw new Error(`the image does not load: ${files}`)
  return files
}
