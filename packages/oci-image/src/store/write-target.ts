import { type FileHandle, open, realpath, rename, rm, stat } from "node:fs/promises"
import { dirname, join } from "node:path"
import { Readable, type Writable } from "node:stream"
import { pipeline } from "node:stream/promises"
import { ioError, printable } from "../errors.js"
import { removeStale } from "./folder.js"
import { ownedName } from "./owner.js"

const PREFIX = ".ts-vmm-save-"
const PIECE = 1024 * 1024

/**
 * Writes chunks to a file or a stream. A file is replaced whole, when everything is written and synced; what a killed
 * process left of another attempt in the same folder is removed. A pipe or a device is written in place. A stream is
 * ended.
 *
 * @throws ImageError `io`, and what making the chunks throws
 */
export async function writeTarget(target: string | Writable, chunks: AsyncIterable<Buffer>): Promise<void> {
  const pieces = gather(chunks)
  if (typeof target !== "string") return pipeline(Readable.from(pieces), target)
  try {
    const found = await stat(target).catch(ignoreMissing)
    if (found && !found.isFile()) await writeInPlace(target, pieces)
    else await replace(found ? await realpath(target) : target, pieces)
  } catch (error) {
    throw (error as NodeJS.ErrnoException).syscall
      ? ioError(error, `cannot write ${printable(target)}`)
      : error
  }
}

async function replace(target: string, pieces: AsyncIterable<Buffer>): Promise<void> {
  const folder = dirname(target)
  await removeStale(folder, PREFIX)
  const temporary = join(folder, `${PREFIX}${ownedName()}`)
  try {
    const file = await open(temporary, "wx", 0o600)
    await writeAll(file, pieces, true)
    await rename(temporary, target)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

async function writeInPlace(target: string, pieces: AsyncIterable<Buffer>): Promise<void> {
  await writeAll(await open(target, "w"), pieces, false)
}

async function writeAll(file: FileHandle, pieces: AsyncIterable<Buffer>, synced: boolean): Promise<void> {
  try {
    for await (const piece of pieces) await file.writeFile(piece)
    if (synced) await file.sync()
  } finally {
    await file.close()
  }
}

/** Puts small chunks together, since an archive is full of them. */
async function* gather(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let pending: Buffer[] = []
  let size = 0
  for await (const chunk of chunks) {
    pending.push(chunk)
    size += chunk.length
    if (size < PIECE) continue
    yield Buffer.concat(pending)
    pending = []
    size = 0
  }
  if (size > 0) yield Buffer.concat(pending)
}

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error
}
