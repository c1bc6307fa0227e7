import { closeSync, constants, fchmodSync, fchownSync, ftruncateSync, writeSync } from "node:fs"
import { type FileCalls, files } from "@ts-vmm/native"
import type { TarEntry, TarHandler } from "@ts-vmm/oci-image/tar"
import { callError, copyError, fromCopyError } from "./copy-error.js"
import { findLanding } from "./landing.js"
import { meansContents, ownName, shown } from "./names.js"
import { bytes, OpenFolders, openAt, timesOf } from "./open-folders.js"

const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants
const { ENOENT, EEXIST, EISDIR } = { ENOENT: -2, EEXIST: -17, EISDIR: -21 }
const AT_SYMLINK_NOFOLLOW = 0x100
const PATH_MAX = 4096
const DEPTH_MAX = 512
const HOLE = 4096
const ZEROS = Buffer.alloc(HOLE)
/** Somebody else may make again what was taken away. */
const TRIES = 16

/** What a {@link TreeWriter} goes by. */
export interface TreeOptions {
  /** What was copied, as it was asked for. */
  readonly path: string
  /** Owners are those of the container. */
  readonly archive: boolean
  /** Most bytes of content. */
  readonly maxBytes: number
  /** Told of what is left out: devices and FIFOs, and hard links to them. */
  readonly onSkip: (path: string) => void
}

/**
 * Makes the files of a guest's tar stream. Nothing but the target is trusted: no name leads outside it, no link is
 * followed, no file that is there is written to (it gives way to a new one), no setuid or setgid bit and no device is made.
 *
 * Errors: SandboxError `copy-failed`, `no-space`.
 */
export class TreeWriter implements TarHandler {
  readonly #target: string
  readonly #options: TreeOptions
  readonly #calls: FileCalls = files
  /** The first name of all names, bytes (latin1 text), and the one that takes its place. */
  readonly #own: string
  #name = ""
  #folders: OpenFolders | undefined
  #file: { readonly fd: number; readonly entry: TarEntry; readonly name: string; at: number } | undefined
  #bytes = 0

  constructor(target: string, options: TreeOptions) {
    this.#target = target
    this.#options = options
    this.#own = Buffer.from(ownName(options.path)).toString("latin1")
  }

  /** Whether anything came. */
  get isEmpty(): boolean {
    return this.#folders === undefined
  }

  entry(entry: TarEntry): void {
    this.#bytes += entry.size
    if (this.#bytes > this.#options.maxBytes)
      throw copyError(shown(entry.path), `the copy has more than ${this.#options.maxBytes} bytes`)
    this.#folders ??= this.#land(entry)
    const names = this.#placeOf(entry, entry.path)
    const name = names.pop()
    if (name === undefined) {
      // The folder that all goes into stays as it is.
      if (entry.type === "directory") return
      throw copyError(shown(entry.path), "it has the name of a directory")
    }
    if (isSpecial(entry)) this.#options.onSkip(shown(entry.path))
    else this.#make(this.#folders, names, name, entry)
  }

  data(chunk: Buffer): void {
    const file = this.#file
    if (!file) return
    try {
      eachRun(chunk, (start, end) => writeAll(file.fd, chunk.subarray(start, end), file.at + start))
    } catch (error) {
      throw this.#failed(file.entry, error)
    }
    file.at += chunk.length
  }

  entryEnd(): void {
    const file = this.#file
    if (!file) return
    try {
      ftruncateSync(file.fd, file.at)
      this.#describe(file.fd, file.entry)
    } catch (error) {
      throw this.#failed(file.entry, error)
    }
    const times = timesOf(file.entry.mtime)
    const fd = (this.#folders as OpenFolders).fd
    this.#check(this.#calls.utimensat(fd, bytes(file.name), times, AT_SYMLINK_NOFOLLOW), file.entry)
    this.#file = undefined
    closeSync(file.fd)
  }

  /** Closes everything; of a file that did not come whole nothing stays. */
  close(): void {
    if (this.#file) {
      closeSync(this.#file.fd)
      this.#calls.unlinkat((this.#folders as OpenFolders).fd, bytes(this.#file.name), 0)
    }
    this.#folders?.close()
  }

  #land({ type }: TarEntry): OpenFolders {
    const { path } = this.#options
    const what = {
      name: ownName(path),
      isFolder: this.#own === "" || type === "directory",
      contents: meansContents(path),
    }
    const { folder, name } = findLanding(this.#target, what)
    this.#name = Buffer.from(name).toString("latin1")
    return new OpenFolders(folder)
  }

  #placeOf(entry: TarEntry, path: string): string[] {
    const names = path.split("/").filter(part => part !== "" && part !== ".")
    if (path.length > PATH_MAX || names.length > DEPTH_MAX)
      throw copyError(shown(entry.path), "it lies too deep")
    if (names.includes("..") || path.includes("\0"))
      throw copyError(shown(entry.path), "a name that leads elsewhere")
    if (this.#own === "") return names
    if (names[0] !== this.#own) throw copyError(shown(entry.path), "it is not part of what was asked for")
    return this.#name === "" ? names.slice(1) : [this.#name, ...names.slice(1)]
  }

  #make(folders: OpenFolders, parents: readonly string[], name: string, entry: TarEntry): void {
    folders.enter(parents, entry.path)
    switch (entry.type) {
      case "directory":
        if (folders.make(name, entry.mtime, entry.path)) this.#describe(folders.fd, entry)
        return
      case "file":
        this.#startFile(folders.fd, name, entry)
        return
      case "symlink":
        this.#symlink(folders.fd, name, entry)
        return
      case "link":
        this.#link(folders, name, entry)
    }
  }

  #startFile(folder: number, name: string, entry: TarEntry): void {
    const flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW
    const fd = this.#replace(folder, name, entry, () =>
      openAt(this.#calls, folder, bytes(name), flags, 0o600),
    )
    this.#file = { fd, entry, name, at: 0 }
  }

  #symlink(folder: number, name: string, entry: TarEntry): void {
    const at = bytes(name)
    this.#replace(folder, name, entry, () => this.#calls.symlinkat(bytes(entry.linkPath), folder, at))
    if (this.#options.archive)
      this.#check(this.#calls.fchownat(folder, at, entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW), entry)
    this.#check(this.#calls.utimensat(folder, at, timesOf(entry.mtime), AT_SYMLINK_NOFOLLOW), entry)
  }

  #link(folders: OpenFolders, name: string, entry: TarEntry): void {
    const names = this.#placeOf(entry, entry.linkPath)
    const target = names.pop()
    if (target === undefined) throw copyError(shown(entry.path), "a hard link to a directory")
    const make = () =>
      folders.beneath(names, fd => this.#calls.linkat(fd, bytes(target), folders.fd, bytes(name), 0))
    if (make() === ENOENT) this.#options.onSkip(shown(entry.path))
    else this.#replace(folders.fd, name, entry, make)
  }

  /** Whatever has the name gives way, but no folder. @returns what `attempt` returned in the end */
  #replace(folder: number, name: string, entry: TarEntry, attempt: () => number): number {
    for (let i = 0; i < TRIES; i++) {
      const made = attempt()
      if (made !== EEXIST) return this.#check(made, entry)
      const removed = this.#calls.unlinkat(folder, bytes(name), 0)
      if (removed === EISDIR)
        throw copyError(shown(entry.path), "cannot overwrite a directory with something else")
      if (removed !== ENOENT) this.#check(removed, entry)
    }
    return this.#check(EEXIST, entry)
  }

  /** The owner first: a change of it takes rights away. */
  #describe(fd: number, entry: TarEntry): void {
    if (this.#options.archive) fchownSync(fd, entry.uid, entry.gid)
    fchmodSync(fd, entry.mode & (entry.type === "directory" ? 0o1777 : 0o777))
  }

  #check(result: number, entry: TarEntry): number {
    if (result < 0) throw callError(shown(entry.path), result)
    return result
  }

  /** Node's errors say no name where only a descriptor was given. */
  #failed(entry: TarEntry, error: unknown): unknown {
    const { errno } = error as NodeJS.ErrnoException
    return errno === undefined ? fromCopyError(error) : callError(shown(entry.path), errno)
  }
}

function isSpecial({ type }: TarEntry): boolean {
  return type === "char" || type === "block" || type === "fifo"
}

/** Runs of blocks with something in them; blocks of zeroes become holes. */
function eachRun(chunk: Buffer, run: (start: number, end: number) => void): void {
  let start = 0
  for (let at = 0; at < chunk.length; at += HOLE) {
    const end = Math.min(at + HOLE, chunk.length)
    if (chunk.compare(ZEROS, 0, end - at, at, end) !== 0) continue
    if (at > start) run(start, at)
    start = end
  }
  if (chunk.length > start) run(start, chunk.length)
}

function writeAll(fd: number, bytes: Buffer, position: number): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, position + at)
}
