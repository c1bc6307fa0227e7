import { randomUUID } from "node:crypto"
import { mkdir, rename, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { type Digest, digestHex } from "../digest.js"
import { ImageError, ioError, printable } from "../errors.js"
import { readRegularFile, UnusableFile } from "./regular-file.js"

/** Small files that are kept with an image, and go with it where the folder is `trust` in the image's store. */
export interface Attachments {
  /** A file's content; undefined when it is not there. */
  get(name: string): Promise<Uint8Array | undefined>
  /** Puts or replaces a file, whole. */
  set(name: string, content: Uint8Array): Promise<void>
}

/** Largest file that is read back. */
const ATTACHMENT_MAX = 8 * 1024 * 1024
const NAME = /^[a-z0-9][a-z0-9.-]{0,127}$/

/**
 * Keeps an image's small files in a folder of their own: `FOLDER/HEX/NAME`. Processes may share it, and be killed.
 *
 * @param folder - as trusted as the store itself: who writes to it can make what a scanner said
 * @throws ImageError of `get` and `set`: `io`, `reference-invalid` for a name that is none
 */
export function folderAttachments(folder: string, digest: Digest): Attachments {
  const own = join(folder, digestHex(digest))
  return {
    async get(name) {
      try {
        return readRegularFile(join(own, checked(name)), ATTACHMENT_MAX)
      } catch (error) {
        if (error instanceof UnusableFile) throw ioError(error, `cannot read ${join(own, name)}`)
        throw error
      }
    },
    async set(name, content) {
      const target = join(own, checked(name))
      const temporary = `${target}.${randomUUID()}`
      try {
        await mkdir(own, { recursive: true, mode: 0o700 })
        await writeFile(temporary, content, { flag: "wx", mode: 0o600, flush: true })
        await rename(temporary, target)
      } catch (error) {
        await rm(temporary, { force: true })
        throw ioError(error, `cannot write ${target}`)
      }
    },
  }
}

function checked(name: string): string {
  if (NAME.test(name)) return name
  throw new ImageError("reference-invalid", `not a name for an attachment: ${printable(name)}`)
}
