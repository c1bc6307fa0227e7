import { createHash } from "node:crypto"
import { readdir, readFile, realpath, rm } from "node:fs/promises"
import { join } from "node:path"
import { type Digest, parseDigest } from "../digest.js"
import { ImageError, ioError, isImageError, printable } from "../errors.js"
import { type FolderFingerprint, fingerprintFolder } from "../pack/fingerprint.js"
import { formatPlatform, type Platform } from "../spec/platform.js"
import type { StoreFolder } from "./folder.js"

/** Remembers which image a root folder was packed into, so that an unchanged folder is not packed again. */
export class FolderCache {
  readonly #folder: StoreFolder
  readonly #file: string
  readonly #now: FolderFingerprint

  private constructor(folder: StoreFolder, file: string, now: FolderFingerprint) {
    this.#folder = folder
    this.#file = file
    this.#now = now
  }

  /**
   * Looks at a root folder.
   *
   * @throws ImageError `source-missing`, and what walking the folder throws
   */
  static async look(folder: StoreFolder, rootfs: string, platform: Platform): Promise<FolderCache> {
    const path = await realpath(rootfs).catch(error => {
      if (error.code === "ENOENT")
        throw new ImageError("source-missing", `no such folder: ${printable(rootfs)}`, { path: rootfs })
      throw ioError(error, `cannot open ${printable(rootfs)}`)
    })
    const key = createHash("sha256")
      .update(`${formatPlatform(platform)}\0${path}`)
      .digest("hex")
    return new FolderCache(folder, join(folder.top("folders"), key), await fingerprintFolder(path))
  }

  /** The manifest digest of the image made of the folder as it is now, if there was one. */
  async get(): Promise<Digest | undefined> {
    const entry = await readEntry(this.#file)
    return entry?.fingerprint === this.#now.digest ? entry.digest : undefined
  }

  /** Remembers what the folder, as it was looked at, was packed into. */
  async set(digest: Digest): Promise<void> {
    if (!this.#now.settled) return
    await this.#folder.replaceFile(this.#file, `${this.#now.digest} ${digest}`, false)
  }
}

/**
 * Forgets folders whose images are gone, and what cannot be read.
 *
 * @param isThere - whether an image is still there
 */
export async function forgetFolders(
  folder: StoreFolder,
  isThere: (digest: Digest) => Promise<boolean>,
): Promise<void> {
  for (const name of await readdir(folder.top("folders"))) {
    const file = join(folder.top("folders"), name)
    const entry = await readEntry(file)
    if (!entry || !(await isThere(entry.digest))) await rm(file, { force: true })
  }
}

/** A damaged entry counts as not there. */
async function readEntry(file: string): Promise<{ fingerprint: string; digest: Digest } | undefined> {
  const [fingerprint = "", digest] = (await readFile(file, "utf8").catch(() => "")).split(" ")
  try {
    return { fingerprint, digest: parseDigest(digest) }
  } catch (error) {
    if (isImageError(error)) return undefined
    throw error
  }
}
