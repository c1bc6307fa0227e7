import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, vi } from "vitest"
import type { ImageErrorCode } from "../errors.js"
import { isImageError } from "../errors.js"
import { LayerTree } from "../layer/layer-tree.js"
import { type TarEntry, type TarHandler, TarReader, type TarReaderOptions } from "../layer/tar-reader.js"
import { DEFAULT_LIMITS, type ImageLimits } from "../limits.js"
import { type PackFile, packFileItem } from "../pack/items.js"
import { encodeTarHeader, tarEnd, tarPadding } from "../pack/tar-writer.js"

// Loading waits for the disk, which others use too.
vi.setConfig({ testTimeout: 60_000 })

/** A folder that is gone after the test. */
export function temporaryFolder(): string {
  const path = mkdtempSync(join(tmpdir(), "oci-image-"))
  folders.push(path)
  return path
}

const folders: string[] = []

afterEach(() => {
  for (const path of folders.splice(0)) rmSync(path, { recursive: true, force: true })
})

/** The code of what a call throws; undefined when it does not. */
export async function codeOf(call: () => unknown): Promise<ImageErrorCode | undefined> {
  try {
    await call()
    return undefined
  } catch (error) {
    if (isImageError(error)) return error.code
    throw error
  }
}

/** A tar stream of described files. */
export function tarOf(files: readonly PackFile[]): Buffer {
  const items = files.map(packFileItem).flatMap(({ header, content }) => {
    const body = Buffer.concat([...((content as Iterable<Buffer>) ?? [])])
    return [encodeTarHeader(header), body, tarPadding(body.length)]
  })
  return Buffer.concat([...items, tarEnd()])
}

/** Reads a whole tar stream into entries and their contents. */
export function readTar(
  stream: Buffer,
  chunkSize = stream.length,
  limits: ImageLimits = DEFAULT_LIMITS,
  options: TarReaderOptions = {},
): [TarEntry, string][] {
  const entries: [TarEntry, string][] = []
  const handler: TarHandler = {
    entry: entry => entries.push([entry, ""]),
    data: bytes => {
      const last = entries.at(-1) as [TarEntry, string]
      last[1] += bytes.toString("latin1")
    },
    entryEnd: () => undefined,
  }
  const reader = new TarReader(handler, limits, options)
  for (let at = 0; at < stream.length; at += chunkSize) reader.push(stream.subarray(at, at + chunkSize))
  reader.end()
  return entries
}

/** The tree of a layer given as files. */
export function layerOf(files: readonly PackFile[], limits: ImageLimits = DEFAULT_LIMITS): LayerTree {
  const tree = new LayerTree(limits)
  for (const [entry] of readTar(tarOf(files))) tree.add(entry)
  return tree
}

/** A blob's descriptor. */
export interface TestDescriptor {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
}

/** An image layout under construction, of any bytes at all. */
export class TestLayout {
  readonly path: string

  constructor(path: string) {
    this.path = path
    mkdirSync(join(path, "blobs/sha256"), { recursive: true })
    writeFileSync(join(path, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}')
  }

  blobPath(digest: string): string {
    return join(this.path, "blobs/sha256", digest.replace("sha256:", ""))
  }

  put(mediaType: string, content: Buffer | object): TestDescriptor {
    const bytes = Buffer.isBuffer(content) ? content : Buffer.from(JSON.stringify(content))
    const digest = sha256(bytes)
    writeFileSync(this.blobPath(digest), bytes)
    return { mediaType, digest, size: bytes.length }
  }

  /** Writes index.json. */
  index(manifests: readonly object[], more: object = {}): void {
    writeFileSync(join(this.path, "index.json"), JSON.stringify({ schemaVersion: 2, manifests, ...more }))
  }

  /** An image of layer blobs; `change` may spoil its manifest. */
  image(
    layers: readonly { readonly blob: Buffer; readonly tar: Buffer; readonly mediaType?: string }[],
    change: (manifest: ManifestJson) => object = m => m,
  ): TestDescriptor {
    const config = this.put("application/vnd.oci.image.config.v1+json", {
      architecture: "amd64",
      os: "linux",
      rootfs: { type: "layers", diff_ids: layers.map(layer => sha256(layer.tar)) },
    })
    const manifest = {
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config,
      layers: layers.map(l => this.put(l.mediaType ?? "application/vnd.oci.image.layer.v1.tar", l.blob)),
    }
    const descriptor = this.put(manifest.mediaType, change(manifest))
    this.index([descriptor])
    return descriptor
  }
}

/** The manifest that a test may spoil. */
export interface ManifestJson {
  schemaVersion: number
  mediaType: string
  config: TestDescriptor
  layers: TestDescriptor[]
}

export function sha256(bytes: Buffer): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`
}

/** An unpacked layer for {@link TestLayout.image}. */
export function plainLayer(files: readonly PackFile[]): { blob: Buffer; tar: Buffer } {
  const tar = tarOf(files)
  return { blob: tar, tar }
}

/** Every file below a folder with its content, to see that nothing changed. */
export function snapshot(folder: string): Map<string, string> {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter(f => f.isFile())
  return new Map(
    files.map(f => [join(f.parentPath, f.name), sha256(readFileSync(join(f.parentPath, f.name)))]),
  )
}

/** Whether a program is installed. */
export function hasProgram(name: string): boolean {
  try {
    execFileSync("sh", ["-c", `command -v ${name}`], { stdio: "ignore" })
    return true
  } catch {
    return false
  }
}
