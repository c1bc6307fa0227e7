// What the conformance tables share: how a case names its sentence, and images built of any bytes at all.
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { isImageError } from "../../src/errors.js"
import type { PackFile } from "../../src/pack/items.js"
import type { Platform } from "../../src/spec/platform.js"
import { ImageStore } from "../../src/store/store.js"
import type { StoredImage } from "../../src/store/stored-image.js"
import { readDiskBytes, readErofs, type SeenFile } from "../../src/test-support/erofs-reader.js"
import { sha256, TestLayout, tarOf, temporaryFolder } from "../../src/test-support/images.js"

/** A sentence of a specification. */
export interface Clause {
  /** Document and section. */
  readonly at: string
  readonly says: string
  /** What happens here. A sentence that is not followed says why. */
  readonly here: string
}

export const OCI = "application/vnd.oci"
export const MANIFEST = `${OCI}.image.manifest.v1+json`
export const INDEX = `${OCI}.image.index.v1+json`
export const CONFIG = `${OCI}.image.config.v1+json`
export const LAYER = `${OCI}.image.layer.v1.tar`
export const AMD64: Platform = { os: "linux", architecture: "amd64" }
export const ZEROS = "0".repeat(64)

/** The title of a case: the sentence first. */
export function title({ at, says, here }: Clause): string {
  return `${at}: "${says}" → ${here}`
}

/** JSON of which any part may be spoiled. */
// biome-ignore lint/suspicious/noExplicitAny: the point is that a test may write anything
export type Json = any

/** What an image is made of; without anything it is a good one with the file `a`. */
export interface Recipe {
  readonly files?: readonly (readonly PackFile[])[]
  /** Tar streams of one's own, instead of `files`. */
  readonly tars?: readonly Buffer[]
  readonly layerType?: string
  /** How the layers are packed: by the type unless it is said. */
  readonly pack?: (tar: Buffer) => Buffer
  readonly configType?: string
  readonly manifestType?: string
  readonly config?: (config: Json) => Json
  readonly manifest?: (manifest: Json) => Json
}

/** Puts an image's blobs into a layout. @returns its descriptor */
export function put(layout: TestLayout, recipe: Recipe = {}): Json {
  const { files = [[{ path: "a", content: "one" }]], layerType = LAYER, configType = CONFIG } = recipe
  const pack = recipe.pack ?? (layerType.endsWith("gzip") ? gzipSync : (tar: Buffer) => tar)
  const tars = recipe.tars ?? files.map(tarOf)
  const config = { ...AMD64, config: {}, rootfs: { type: "layers", diff_ids: tars.map(sha256) } }
  const mediaType = recipe.manifestType ?? MANIFEST
  const manifest = {
    schemaVersion: 2,
    mediaType,
    config: layout.put(configType, recipe.config ? recipe.config(config) : config),
    layers: tars.map(tar => layout.put(layerType, pack(tar))),
  }
  return layout.put(mediaType, recipe.manifest ? recipe.manifest(manifest) : manifest)
}

/** What came of loading: the error's code, or the image. */
export type Outcome = { readonly code: string } | { readonly image: StoredImage }

/** Loads what `build` writes into a layout. */
export async function load(
  build: (layout: TestLayout) => void,
  platform = AMD64,
  tag = "",
): Promise<Outcome> {
  const folder = temporaryFolder()
  const layout = new TestLayout(join(folder, "layout"))
  build(layout)
  const store = await ImageStore.open(join(folder, "store"))
  try {
    return { image: await store.load(`oci:${layout.path}${tag}`, { platform }) }
  } catch (error) {
    if (isImageError(error)) return { code: error.code }
    throw error
  }
}

/** Every file that a guest sees, or the error's code. */
export function seen(outcome: Outcome): Map<string, SeenFile> | string {
  return "code" in outcome ? outcome.code : readErofs(readDiskBytes(outcome.image.disk()))
}

/** Contents of the regular files, or the error's code. */
export function contents(outcome: Outcome): Record<string, string> | string {
  const files = seen(outcome)
  if (typeof files === "string") return files
  const regular = [...files].filter(([, { mode }]) => (mode & 0o170000) === 0o100000)
  return Object.fromEntries(regular.map(([path, file]) => [path, file.content.toString("latin1")]))
}
