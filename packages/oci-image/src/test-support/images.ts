import { execFileSync } from "node:child_process"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
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
import { sha256 } from "./test-layout.js"

export { type ManifestJson, sha256, type TestDescriptor, type TestLayer, TestLayout } from "./test-layout.js"

// Loading waits for the disk, which others use too.
vi.setConfig({ testTimeout: 60_000 })

/** A folder that is gone after the test. */
export function temporaryFolder(where = tmpdir()): string {
  const path = mkdtempSync(join(where, "oci-image-"))
  folders.push(path)
  return path
}

/** Where nothing waits for the disk, which others use too. */
export const MEMORY = existsSync("/dev/shm") ? "/dev/shm" : tmpdir()

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
