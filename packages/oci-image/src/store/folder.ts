import { type FileHandle, mkdir, open, readdir, rename, rm, stat, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { type Digest, digestHex } from "../digest.js"
import { ioError } from "../errors.js"
import { isOwnerAlive, ownedName } from "./owner.js"

/** The folders of a store. */
const FOLDERS = ["blobs/sha256", "parts", "images", "lazy", "refs", "folders", "tmp", "leases"]

/**
 * The files of a store and how they come to be. Everything but temporary files is content-addressed or
 * replaced whole: written under `tmp/`, synced, renamed. So a process may die at any point.
 *
 * ```
 * oci-layout  index.json          an OCI image layout, readable by other tools
 * blobs/sha256/HEX                manifests, configs, and layers if they are kept
 * parts/HEX/{data,index}          one layer as EROFS data part, by the digest of its blob
 * images/HEX/{metadata,image.json} one image, by the digest of its manifest
 * lazy/HEX/{index,spans,start}    what it takes to begin with a layer that is not there: its tree, where its content
 *                                 lies in its blob, and what was needed first the last time
 * refs/HEX                        one name, by its hash: {"name","digest"}
 * folders/HEX                     which image a root folder was packed into
 * tmp/OWNER-*  leases/*-OWNER-*   of running processes
 * ```
 */
export class StoreFolder {
  readonly path: string

  constructor(path: string) {
    this.path = path
  }

  blob(digest: Digest): string {
    return join(this.path, "blobs/sha256", digestHex(digest))
  }

  part(digest: Digest, file: "data" | "index" | "" = ""): string {
    return join(this.path, "parts", digestHex(digest), file)
  }

  image(digest: Digest, file: "metadata" | "image.json" | "" = ""): string {
    return join(this.path, "images", digestHex(digest), file)
  }

  lazy(digest: Digest, file: "index" | "spans" | "start" | "" = ""): string {
    return join(this.path, "lazy", digestHex(digest), file)
  }

  top(name: string): string {
    return join(this.path, name)
  }

  /** Makes missing folders and removes what dead processes left behind. */
  async prepare(): Promise<void> {
    for (const folder of FOLDERS) await mkdir(this.top(folder), { recursive: true, mode: 0o700 })
    await this.removeStale()
  }

  /** Removes what dead processes left behind. */
  async removeStale(): Promise<void> {
    for (const folder of ["tmp", "leases"]) await removeStale(this.top(folder))
  }

  /** A new name under `tmp/`. */
  temporary(): string {
    return join(this.path, "tmp", ownedName())
  }

  /** An empty file without a name: it is gone when nobody has it open any more. @throws ImageError `io` */
  async scratch(): Promise<FileHandle> {
    const path = this.temporary()
    try {
      return await open(path, "wx+", 0o600)
    } catch (error) {
      throw ioError(error, "cannot write to the image store")
    } finally {
      await rm(path, { force: true })
    }
  }

  /**
   * Replaces a file whole.
   *
   * @param synced - whether it must survive a power cut; false for what can be made again from other files
   */
  async replaceFile(target: string, content: string | Uint8Array, synced = true): Promise<void> {
    const temporary = this.temporary()
    try {
      if (synced) await writeSynced(temporary, content)
      else await writeFile(temporary, content, { flag: "wx", mode: 0o600 })
      await rename(temporary, target)
    } catch (error) {
      await rm(temporary, { force: true })
      throw ioError(error, "cannot write to the image store")
    }
  }

  /**
   * Moves a finished folder, whose files are synced, to its content-addressed place. When another process was
   * faster, its result stays: it is the same. Should the move get lost in a power cut, the content is made anew.
   */
  async publishFolder(temporary: string, target: string): Promise<void> {
    try {
      await rename(temporary, target)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code !== "ENOTEMPTY" && code !== "EEXIST") throw ioError(error, "cannot write to the image store")
      await rm(temporary, { recursive: true, force: true })
    }
  }

  /**
   * Takes a folder out of its place in one step, then deletes it.
   *
   * @param isWanted - asked when it is out of its place: whether somebody came to need it meanwhile. Then it goes back.
   * @returns whether it is gone
   */
  async removeFolder(target: string, isWanted?: () => Promise<boolean>): Promise<boolean> {
    const grave = this.temporary()
    const gone = await rename(target, grave).then(
      () => true,
      error => {
        if (error.code === "ENOENT") return false
        throw ioError(error, "cannot remove from the image store")
      },
    )
    if (!gone) return false
    if (isWanted && (await this.#returns(grave, target, isWanted))) return false
    await rm(grave, { recursive: true, force: true })
    return true
  }

  /** Puts a folder back that is wanted, or of which it cannot be told. */
  async #returns(grave: string, target: string, isWanted: () => Promise<boolean>): Promise<boolean> {
    let wanted = true
    try {
      wanted = await isWanted()
    } finally {
      if (wanted) await this.publishFolder(grave, target)
    }
    return wanted
  }
}

/** Removes files and folders whose names say that they belong to a process which is dead. */
async function removeStale(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const path = join(folder, name)
    const found = await stat(path).catch(() => undefined)
    if (found && !isOwnerAlive(name, found.mtimeMs)) await rm(path, { recursive: true, force: true })
  }
}

/** Creates a file, writes it and waits until it is on the disk. */
export async function writeSynced(
  path: string,
  content: string | Uint8Array | Iterable<Uint8Array>,
): Promise<void> {
  const file = await open(path, "wx", 0o600)
  try {
    if (typeof content === "string" || content instanceof Uint8Array) await file.writeFile(content)
    else for (const piece of content) await file.writeFile(piece)
    await file.sync()
  } finally {
    await file.close()
  }
}
