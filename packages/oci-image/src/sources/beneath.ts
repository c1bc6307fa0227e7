import { constants } from "node:fs"
import { type FileHandle, open } from "node:fs/promises"
import { ImageError, ioError, printable } from "../errors.js"
import { checkLimit } from "../limits.js"

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK } = constants
const CHUNK = 256 * 1024

/** The path of `name` inside an open folder: the kernel starts at the folder itself, whatever its path has become. */
export function beneath(folder: FileHandle, name: string): string {
  return `/proc/self/fd/${folder.fd}/${name}`
}

/** Opens a folder given by the user; only what is inside it is distrusted. */
export async function openFolder(path: string): Promise<FileHandle> {
  return open(path, O_RDONLY | O_DIRECTORY).catch(error => {
    throw missing(error, path, "folder")
  })
}

/**
 * Opens a regular file inside a folder, component by component, following no symlink (I10).
 *
 * @param components - fixed or checked names, no `/`, no `..`
 * @throws ImageError `source-missing` when it is not there, `source-invalid` when a component is a symlink or
 * the last one is no regular file
 */
export async function openBeneath(folder: FileHandle, components: readonly string[]): Promise<FileHandle> {
  let at = folder
  try {
    for (const [i, name] of components.entries()) {
      const last = i === components.length - 1
      const flags = O_RDONLY | O_NOFOLLOW | (last ? O_NONBLOCK : O_DIRECTORY)
      const next = await open(beneath(at, name), flags).catch(error => {
        throw missing(error, components.join("/"), "file")
      })
      if (at !== folder) await at.close()
      at = next
    }
    if (!(await at.stat()).isFile()) throw notRegular(components.join("/"))
    return at
  } catch (error) {
    if (at !== folder) await at.close()
    throw error
  }
}

function missing(error: unknown, path: string, kind: string): ImageError {
  const { code } = error as NodeJS.ErrnoException
  if (code === "ENOENT")
    return new ImageError("source-missing", `no such ${kind}: ${printable(path)}`, { path }, { cause: error })
  if (code === "ELOOP" || code === "ENOTDIR" || code === "ENXIO") return notRegular(path, error)
  return ioError(error, `cannot open ${printable(path)}`)
}

function notRegular(path: string, cause?: unknown): ImageError {
  return new ImageError(
    "source-invalid",
    `not a regular file, or behind a symlink: ${printable(path)}`,
    { path },
    { cause },
  )
}

/**
 * Reads a range of an open file in fresh buffers.
 *
 * @param end - first byte after the range; reading stops earlier where the file ends
 */
export async function* readRange(file: FileHandle, start: number, end: number): AsyncGenerator<Buffer> {
  for (let at = start; at < end; ) {
    const buffer = Buffer.allocUnsafeSlow(Math.min(CHUNK, end - at))
    const { bytesRead } = await file.read(buffer, 0, buffer.length, at)
    if (bytesRead === 0) return
    at += bytesRead
    yield buffer.subarray(0, bytesRead)
  }
}

/** Puts chunks, whose number the caller has bounded, into one buffer. */
export async function collect(chunks: AsyncIterable<Buffer>): Promise<Buffer> {
  const all: Buffer[] = []
  for await (const chunk of chunks) all.push(chunk)
  return Buffer.concat(all)
}

/** Reads a whole small file. @throws ImageError `limit` when it is longer than `max` */
export async function readWhole(file: FileHandle, what: string, max: number): Promise<Buffer> {
  const bytes = await collect(readRange(file, 0, max + 1))
  checkLimit("documentBytes", bytes.length, max, `size of ${what}`)
  return bytes
}
