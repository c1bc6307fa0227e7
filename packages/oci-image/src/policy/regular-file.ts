import { closeSync, constants, fstatSync, lstatSync, openSync, readSync } from "node:fs"

/** Why a file cannot be used, for a message. */
export class UnusableFile extends Error {}

/**
 * Reads a small file whole. A pipe or a device, which could keep a reader for ever, is refused.
 *
 * @param max - bytes
 * @returns undefined when it is not there
 * @throws UnusableFile
 */
export function readRegularFile(path: string, max: number): Buffer | undefined {
  let file: number
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw unreadable(error)
    // A link to nothing is there, and somebody meant something by it.
    if (lstatSync(path, { throwIfNoEntry: false })) throw new UnusableFile("is a link to nothing")
    return undefined
  }
  try {
    if (!fstatSync(file).isFile()) throw new UnusableFile("is no regular file")
    return readUpTo(file, max)
  } catch (error) {
    throw error instanceof UnusableFile ? error : unreadable(error)
  } finally {
    closeSync(file)
  }
}

function readUpTo(file: number, max: number): Buffer {
  // What is read counts, not what the file's size was before.
  const bytes = Buffer.alloc(max + 1)
  let length = 0
  for (;;) {
    const read = readSync(file, bytes, length, bytes.length - length, null)
    if (read === 0) return bytes.subarray(0, length)
    length += read
    if (length > max) throw new UnusableFile(`is larger than ${max} bytes`)
  }
}

function unreadable(error: unknown): UnusableFile {
  const { code = "", message } = error as NodeJS.ErrnoException
  return new UnusableFile(`cannot be read (${code || message})`, { cause: error })
}
