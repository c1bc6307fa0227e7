import { type FileHandle, lstat, open, readdir, realpath, rename, rm, stat, unlink } from "node:fs/promises"
import { dirname, join } from "node:path"
import { Readable, type Writable } from "node:stream"
import { pipeline } from "node:stream/promises"
import { gather } from "../chunks.js"
import { ImageError, ioError, printable } from "../errors.js"
import { isOwnerAlive, ownedName } from "./owner.js"

const PREFIX = ".ts-vmm-save-"
const PIECE = 1024 * 1024

/**
 * Writes chunks to a file or a stream. A file is replaced whole, when everything is written and synced; what a killed
 * process left of another attempt in the same folder is removed. A pipe or a device is written in place. A stream is
 * ended.
 *
 * @throws ImageError `io`, and what making the chunks throws; the signal's reason
 */
export async function writeTarget(
  target: string | Writable,
  chunks: AsyncIterable<Buffer>,
  signal?: AbortSignal,
): Promise<void> {
  const pieces = gather(chunks, PIECE)
  try {
    if (typeof target === "string") await writeFile(target, pieces)
    else await pipeline(Readable.from(pieces), target, signal ? { signal } : {})
  } catch (error) {
    signal?.throwIfAborted()
    const name = typeof target === "string" ? printable(target) : "the stream"
    throw (error as NodeJS.ErrnoException).syscall ? ioError(error, `cannot write ${name}`) : error
  }
}

async function writeFile(target: string, pieces: AsyncIterable<Buffer>): Promise<void> {
  const found = await stat(target).catch(ignoreMissing)
  const write = (file: FileHandle) => writeAll(file, pieces)
  if (found && !found.isFile()) {
    const file = await open(target, "w")
    await useFile(file, () => write(file))
  } else await replace(found ? await realpath(target) : target, write)
}

/**
 * Replaces a regular file, or makes one: it is there when everything is written and synced, or not at all.
 *
 * @param write - gets an empty file
 * @throws ImageError `io`, also where `target` is something else; what `write` throws
 */
export async function replaceFile<T>(target: string, write: (file: FileHandle) => Promise<T>): Promise<T> {
  try {
    const found = await stat(target).catch(ignoreMissing)
    if (found && !found.isFile()) throw new ImageError("io", `${printable(target)} is no regular file`)
    return await replace(found ? await realpath(target) : target, write)
  } catch (error) {
    throw (error as NodeJS.ErrnoException).syscall
      ? ioError(error, `cannot write ${printable(target)}`)
      : error
  }
}

async function replace<T>(target: string, write: (file: FileHandle) => Promise<T>): Promise<T> {
  const folder = dirname(target)
  await removeLeftovers(folder)
  const temporary = join(folder, `${PREFIX}${ownedName()}`)
  try {
    const file = await open(temporary, "wx", 0o600)
    const written = await useFile(file, async () => {
      const result = await write(file)
      await file.sync()
      return result
    })
    await rename(temporary, target)
    return written
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

/**
 * Removes what killed processes of this user left. The folder is anybody's, `/tmp` say: only plain files are unlinked,
 * nothing is entered, and what cannot be removed or seen is no reason not to save.
 */
async function removeLeftovers(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => [])
  for (const name of names.filter(name => name.startsWith(PREFIX))) {
    const path = join(folder, name)
    const found = await lstat(path).catch(() => undefined)
    if (!found?.isFile() || found.uid !== process.getuid?.() || isOwnerAlive(name, found.mtimeMs)) continue
    await unlink(path).catch(() => undefined)
  }
}

async function writeAll(file: FileHandle, pieces: AsyncIterable<Buffer>): Promise<void> {
  for await (const piece of pieces) await file.writeFile(piece)
}

async function useFile<T>(file: FileHandle, use: () => Promise<T>): Promise<T> {
  try {
    return await use()
  } finally {
    await file.close()
  }
}

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error
}
