import { constants } from "node:os"
import { closeFd } from "@ts-vmm/native"
import { procName } from "./host-files.js"
import { FUSE_ROOT_ID } from "./protocol.js"

const { EMFILE, ENOENT, ESTALE } = constants.errno
/** Directories in each other that were let go of, most: more than a path can name. */
const MAX_DEPTH = 4096

/** What tells a file of the host from others. */
export interface Identity {
  /** Device and mount of the host. */
  readonly device: string
  /** Inode number: no other file of that device has it as long as an fd holds the file. Text beyond 2^53. */
  readonly inode: number | string
  /** S_IFMT bits: they never change. */
  readonly type: number
  /** Time of birth, where the file system has one: tells a file from an earlier one with its inode number. */
  readonly born: number
}

/** A file that was just found, and an O_PATH fd that holds it. */
export interface FoundFile extends Identity {
  readonly fd: number
}

/** A file that the guest knows by a node id. */
export interface KnownFile extends Identity {
  readonly id: number
  /** How often the guest was told of it and has not forgotten it. */
  lookups: number
  /** O_PATH: it holds the file, whatever becomes of its name, and gives no access. Undefined: see {@link place}. */
  fd: number | undefined
  /** Name in /proc/self/fd, by which the file can be opened and changed. */
  procName: Uint8Array
  /** Where it was seen last, and is looked for when no fd holds it. Undefined: only its fd leads to it. */
  place: Place | undefined
}

/** A name in a directory, as a request has it: until its end. */
export type NameIn = readonly [parent: Inode, name: Uint8Array]

/** The same, to keep. */
interface Place {
  readonly parent: KnownFile
  /** Its bytes, each a character: a quarter of the memory that they take as an array. */
  readonly name: string
}

/** One that is held: what is done to files is done to these. */
export interface Inode extends KnownFile {
  readonly fd: number
}

/** The ways to a file that no fd holds. Its new fd is the caller's; or a negative errno. */
export interface Ways {
  /** Looks a name up in a directory. */
  find(parent: Inode, name: Uint8Array): FoundFile | number
  /** Of one that the guest has open, undefined for others. */
  findOpen(id: number): FoundFile | number | undefined
}

/**
 * Files that the guest knows. Node ids are never used again, so an id of a forgotten file names nothing.
 *
 * A guest knows as many files as it has ever listed, and a process may have far fewer fds. So a file is held only from
 * when something is done to it until others have been used more lately ({@link trim}); before and afterwards what the
 * guest has open leads to it, or its name in a directory as long as it is the name of that file. One whose name the guest
 * took away stays held.
 */
export class InodeTable {
  readonly #byId = new Map<number, KnownFile>()
  readonly #byInode = new Map<string, Map<number | string, KnownFile>>()
  /** Those that are held and have a place, the ones used last at the end. */
  readonly #trimmable = new Set<KnownFile>()
  readonly #limit: number
  readonly #ways: Ways
  readonly #onForget: (id: number) => void
  #lastId = FUSE_ROOT_ID

  /**
   * @param root - never forgotten, always held
   * @param limit - most files at a time
   * @param onForget - told of every file that is forgotten
   */
  constructor(root: FoundFile, limit: number, ways: Ways, onForget: (id: number) => void) {
    this.#limit = limit
    this.#ways = ways
    this.#onForget = onForget
    this.#add(FUSE_ROOT_ID, root, root.fd)
  }

  get size(): number {
    return this.#byId.size
  }

  /** A file that is not known yet would be one too many. */
  get isFull(): boolean {
    return this.#byId.size >= this.#limit
  }

  /** @returns the file, held; `-ENOENT` for none, `-ESTALE` when it is not where it was, or another negative errno */
  get(id: number): Inode | number {
    const known = this.#byId.get(id)
    return known ? this.#held(known) : -ENOENT
  }

  /**
   * The entry of a file that was seen under a name, one lookup more.
   *
   * @returns undefined when it is one too many
   */
  note(seen: Identity, parent: Inode, name: Uint8Array): KnownFile | undefined {
    const known = this.known(seen)
    if (!known && this.isFull) return undefined
    const file = known ?? this.#add(++this.#lastId, seen)
    if (known) known.lookups++
    // A file of several names keeps the one that it has while it is held: all lead to it.
    if (!file.place || (!isHeld(file) && !isAt(file.place, parent, name))) this.place(file, parent, name)
    return file
  }

  /**
   * The entry of a file that is held, one lookup more; the fd is the table's from now on, and closed when it is not
   * needed.
   *
   * @param name - undefined for a file without one
   * @returns undefined when it is one too many
   */
  remember(found: FoundFile, name?: NameIn): Inode | undefined {
    const known = this.known(found)
    if (!known && this.isFull) {
      closeFd(found.fd)
      return undefined
    }
    if (known) known.lookups++
    return this.#holdWith(known ?? this.#add(++this.#lastId, found), found.fd, name)
  }

  /** Who this is of those that the guest knows. */
  known(seen: Identity): KnownFile | undefined {
    const known = this.#byInode.get(seen.device)?.get(seen.inode)
    return known && (isHeld(known) || isSame(known, seen)) ? known : undefined
  }

  /**
   * The entry of a file that was just opened by a name, without another lookup; the fd is the table's from now on, and
   * closed when it is not needed.
   *
   * @returns undefined when the guest does not know it
   */
  adopt(found: FoundFile, name: NameIn): Inode | undefined {
    const known = this.known(found)
    if (known) return this.#holdWith(known, found.fd, name)
    closeFd(found.fd)
    return undefined
  }

  /** A name that leads to a file from now on. */
  place(file: KnownFile, parent: Inode, name: Uint8Array): void {
    if (file.id === FUSE_ROOT_ID) return
    file.place = { parent, name: textOf(name) }
    if (isHeld(file)) this.#trimmable.add(file)
  }

  /** A name is gone: whose place it was can only be reached by its fd. */
  nameless(file: KnownFile, parent: Inode, name: Uint8Array): void {
    if (!file.place || !isAt(file.place, parent, name)) return
    file.place = undefined
    this.#trimmable.delete(file)
  }

  /**
   * Lets go of files, from the one that was not used for longest, until `most` are held that need not be. Not while a
   * request is carried out: what it works on stays held.
   */
  trim(most: number): void {
    for (const file of this.#trimmable) {
      if (this.#trimmable.size <= most) return
      this.#letGo(file)
    }
  }

  /** The guest takes back `count` lookups; more than there were are taken for all. */
  forget(id: number, count: number): void {
    const file = this.#byId.get(id)
    if (!file || id === FUSE_ROOT_ID) return
    file.lookups -= count
    if (file.lookups > 0) return
    this.#byId.delete(id)
    const others = this.#byInode.get(file.device)
    if (others?.get(file.inode) === file) others.delete(file.inode)
    this.#letGo(file)
    file.place = undefined
    this.#onForget(id)
  }

  /** Forgets all but the root. */
  clear(): void {
    for (const id of [...this.#byId.keys()]) this.forget(id, Number.POSITIVE_INFINITY)
  }

  #add(id: number, { device, inode, type, born }: Identity, fd?: number): KnownFile {
    const named = fd === undefined ? NO_NAME : procName(fd)
    const file = { id, device, inode, type, born, lookups: 1, fd, procName: named, place: undefined }
    this.#byId.set(id, file)
    const others = this.#byInode.get(device)
    if (others) others.set(inode, file)
    else this.#byInode.set(device, new Map([[inode, file]]))
    return file
  }

  /** With an fd that is not needed where the file has one. */
  #holdWith(file: KnownFile, fd: number, name: NameIn | undefined): Inode {
    if (isHeld(file)) {
      closeFd(fd)
      return file
    }
    if (name) this.place(file, ...name)
    return this.#hold(file, fd)
  }

  #hold(file: KnownFile, fd: number): Inode {
    file.fd = fd
    file.procName = procName(fd)
    if (file.place) this.#trimmable.add(file)
    return file as Inode
  }

  #letGo(file: KnownFile): void {
    this.#trimmable.delete(file)
    if (file.fd !== undefined) closeFd(file.fd)
    file.fd = undefined
    file.procName = NO_NAME
  }

  #held(file: KnownFile): Inode | number {
    if (!isHeld(file)) return this.#holdAgain(file)
    if (this.#trimmable.delete(file)) this.#trimmable.add(file)
    return file
  }

  /** From the nearest directory that is held or open, down. */
  #holdAgain(file: KnownFile): Inode | number {
    const way: KnownFile[] = []
    let at = file
    let held = this.#reach(at)
    while (held === undefined) {
      if (!at.place || way.push(at) > MAX_DEPTH) return -ESTALE
      at = at.place.parent
      held = this.#reach(at)
    }
    for (const next of way.reverse()) {
      if (typeof held === "number") return held
      held = this.#holdFound(next, this.#ways.find(held, bytesOf((next.place as Place).name)))
    }
    return held
  }

  /** Without its name; undefined when only that leads to it, or nothing does. */
  #reach(file: KnownFile): Inode | number | undefined {
    if (isHeld(file)) return file
    // A child may know its directory for longer than the guest does.
    const found = this.#byId.has(file.id) ? this.#ways.findOpen(file.id) : undefined
    return found === undefined ? undefined : this.#holdFound(file, found)
  }

  #holdFound(file: KnownFile, found: FoundFile | number): Inode | number {
    if (typeof found === "number") return found === -EMFILE ? found : -ESTALE
    if (isSame(file, found)) return this.#hold(file, found.fd)
    closeFd(found.fd)
    return -ESTALE
  }
}

const NO_NAME = new Uint8Array(0)
const textOf = ({ buffer, byteOffset, byteLength }: Uint8Array) =>
  Buffer.from(buffer, byteOffset, byteLength).toString("latin1")
const bytesOf = (text: string) => Buffer.from(text, "latin1")

function isHeld(file: KnownFile): file is Inode {
  return file.fd !== undefined
}

function isAt(place: Place, parent: KnownFile, name: Uint8Array): boolean {
  if (place.parent !== parent || place.name.length !== name.length) return false
  for (let i = 0; i < name.length; i++) if (place.name.charCodeAt(i) !== name[i]) return false
  return true
}

/** An inode number is used again when its file is gone. */
function isSame(known: Identity, seen: Identity): boolean {
  const { device, inode, type, born } = seen
  return known.inode === inode && known.born === born && known.type === type && known.device === device
}
