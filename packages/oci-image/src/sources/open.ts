import { stat } from "node:fs/promises"
import { join } from "node:path"
import { ImageError, ioError, printable } from "../errors.js"
import type { ImageLimits } from "../limits.js"
import { openArchive } from "./archive.js"
import { LayoutFolder, LayoutSource } from "./layout.js"
import type { ImageSource } from "./source.js"

/** What the text of a source means. */
export type SourceSpec =
  | { readonly kind: "oci" | "oci-archive" | "docker-archive"; readonly path: string; readonly tag?: string }
  | { readonly kind: "rootfs" | "path"; readonly path: string }

const TRANSPORT = /^(oci|oci-archive|docker-archive|rootfs):(.+)$/s

/**
 * Reads the text of a local source: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:TAG]`,
 * `rootfs:DIR`, or a path that starts with `/`, `./` or `../`.
 *
 * @returns undefined when the text is none of these, so that it may be an image's name
 */
export function parseSource(text: string): SourceSpec | undefined {
  const [, transport, rest] = TRANSPORT.exec(text) ?? []
  if (rest === undefined) {
    return /^(\/|\.\.?(\/|$))/.test(text) ? { kind: "path", path: text } : undefined
  }
  if (transport === "rootfs") return { kind: "rootfs", path: rest }
  const kind = transport as "oci" | "oci-archive" | "docker-archive"
  const colon = rest.indexOf(":")
  return colon < 0 ? { kind, path: rest } : { kind, path: rest.slice(0, colon), tag: rest.slice(colon + 1) }
}

/** A source that can be read as it is, or a folder that has to be packed first. */
export type OpenedSource = { readonly image: ImageSource } | { readonly rootfs: string }

/**
 * Opens a local source; a plain path is looked at to see what it is.
 *
 * @throws ImageError `source-missing`, `source-invalid`, `archive-invalid`, `reference-invalid`, `io`
 */
export async function openSource(text: string, limits: ImageLimits): Promise<OpenedSource> {
  const spec = parseSource(text)
  if (!spec) {
    throw new ImageError(
      "reference-invalid",
      `not a local source: ${printable(text)}; write oci:DIR, a path, ...`,
    )
  }
  switch (spec.kind) {
    case "rootfs":
      return { rootfs: spec.path }
    case "oci":
      return { image: new LayoutSource(await LayoutFolder.open(spec.path), spec.tag) }
    case "path":
      return openPath(spec.path, limits)
    default:
      return { image: await openArchive(spec.path, spec.kind, spec.tag, limits) }
  }
}

async function openPath(path: string, limits: ImageLimits): Promise<OpenedSource> {
  const is = await stat(path).catch(error => {
    if (error.code === "ENOENT")
      throw new ImageError("source-missing", `no such file or folder: ${printable(path)}`, { path })
    throw ioError(error, `cannot open ${printable(path)}`)
  })
  if (!is.isDirectory()) return { image: await openArchive(path, "any", undefined, limits) }
  const isLayout = await stat(join(path, "oci-layout")).then(
    () => true,
    () => false,
  )
  return isLayout ? { image: new LayoutSource(await LayoutFolder.open(path)) } : { rootfs: path }
}
