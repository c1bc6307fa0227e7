import { closeSync, constants, openSync } from "node:fs"
import { type FileCalls, files } from "@ts-vmm/native"
import type { TarEntry } from "@ts-vmm/oci-image/tar"
import { callError } from "./copy-error.js"
import { shown } from "./names.js"

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW } = constants
const { ENOENT, EEXIST } = { ENOENT: -2, EEXIST: -17 }
const O_CLOEXEC = 0o2000000
const AT_EMPTY_PATH = 0x1000
const UTIME_NOW = 0x3fffffff
/** For calls on a descriptor itself. */
const NO_NAME = new Uint8Array(0)

/** An open folder on the way to the last entry. */
interface Level {
  readonly name: string
  readonly fd: number
  /** Set when the folder is left: until then entries change it. */
  mtime: TarEntry["mtime"] | undefined
}

/**
 * The folders on the way to the last entry, opened one from the other by one name each and through no link: whatever
 * becomes of their names meanwhile, what is made in them lies in them. Names are bytes (latin1 text).
 */
export class OpenFolders {
  readonly #calls: FileCalls
  readonly #levels: Level[]

  /** @param path - the user's folder, whose own links are followed @throws the error of open(2) */
  constructor(path: string, calls: FileCalls = files) {
    this.#calls = calls
    this.#levels = [{ name: "", fd: openSync(path, O_RDONLY | O_DIRECTORY), mtime: undefined }]
  }

  /** The folder that was entered last. */
  get fd(): number {
    return (this.#levels.at(-1) as Level).fd
  }

  /** Goes to a folder, which is made if no entry made it. @throws SandboxError `copy-failed`, `no-space` */
  enter(names: readonly string[], what: string): void {
    let same = 0
    while (same < names.length && this.#levels[same + 1]?.name === names[same]) same++
    this.#leave(same)
    for (const name of names.slice(same)) {
      let fd = this.#open(this.fd, name)
      if (fd === ENOENT) {
        this.#check(this.#calls.mkdirat(this.fd, bytes(name), 0o755), what)
        fd = this.#open(this.fd, name)
      }
      this.#push(name, fd, what, undefined)
    }
  }

  /**
   * Makes a folder where it is and goes into it.
   *
   * @returns false if it was there; it keeps its time then
   * @throws SandboxError `copy-failed`, `no-space`
   */
  make(name: string, mtime: TarEntry["mtime"], what: string): boolean {
    const made = this.#calls.mkdirat(this.fd, bytes(name), 0o700)
    if (made !== EEXIST) this.#check(made, what)
    this.#push(name, this.#open(this.fd, name), what, made === EEXIST ? undefined : mtime)
    return made !== EEXIST
  }

  /** The folder that a path names, for a moment. @throws what `use` throws @returns a negative errno if it is not there */
  beneath(names: readonly string[], use: (fd: number) => number): number {
    let fd = (this.#levels[0] as Level).fd
    const opened: number[] = []
    try {
      for (const name of names) {
        fd = this.#open(fd, name)
        if (fd < 0) return fd
        opened.push(fd)
      }
      return use(fd)
    } finally {
      for (const one of opened) closeSync(one)
    }
  }

  /** Leaves all folders. */
  close(): void {
    this.#leave(0)
    closeSync(this.fd)
    this.#levels.length = 0
  }

  #leave(depth: number): void {
    while (this.#levels.length > depth + 1) {
      const { fd, mtime } = this.#levels.pop() as Level
      if (mtime) this.#calls.utimensat(fd, NO_NAME, timesOf(mtime), AT_EMPTY_PATH)
      closeSync(fd)
    }
  }

  #push(name: string, fd: number, what: string, mtime: Level["mtime"]): void {
    this.#check(fd, what)
    this.#levels.push({ name, fd, mtime })
  }

  #open(folder: number, name: string): number {
    return openAt(this.#calls, folder, bytes(name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
  }

  #check(result: number, what: string): void {
    if (result < 0) throw callError(shown(what), result)
  }
}

/** @returns fd or a negative errno */
export function openAt(calls: FileCalls, folder: number, name: Uint8Array, flags: number, mode = 0): number {
  const how = new DataView(new ArrayBuffer(24)) // struct open_how: flags, mode, resolve
  how.setBigUint64(0, BigInt(flags | O_CLOEXEC), true)
  how.setBigUint64(8, BigInt(mode), true)
  return calls.openat2(folder, name, new Uint8Array(how.buffer))
}

/** A name (latin1 text) as the kernel has it. */
export function bytes(name: string): Buffer {
  return Buffer.from(name, "latin1")
}

/** Two struct timespec: read now, changed when the entry says. */
export function timesOf({ seconds, nanoseconds }: TarEntry["mtime"]): Uint8Array {
  const times = new DataView(new ArrayBuffer(32))
  times.setBigInt64(8, BigInt(UTIME_NOW), true)
  times.setBigInt64(16, BigInt(seconds), true)
  times.setBigInt64(24, BigInt(nanoseconds), true)
  return new Uint8Array(times.buffer)
}
