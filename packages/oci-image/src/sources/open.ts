import { stat } from "node:fs/promises"
import { join } from "node:path"
import { ImageError, ioError, printable } from "../errors.js"
import type { ImageLimits } from "../limits.js"
import { openArchive } from "./archive.js"
import { LayoutFolder, LayoutSource } from "./layout.js"
import { parseSource } from "./parse.js"
import type { ImageSource } from "./source.js"

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
