import { closeFd } from "@ts-vmm/native"
import { procName } from "./host-files.js"
import { FUSE_ROOT_ID } from "./protocol.js"

/** A file that the guest knows by a node id. */
export interface Inode {
  readonly id: number
  /** O_PATH: it holds the file, whatever becomes of its name, and gives no access. */
  readonly fd: number
  /** Name in /proc/self/fd, by which the file can be opened and changed. */
  readonly procName: Uint8Array
  /** {@link device} and inode number of the host: no other file has it as long as the fd is open. */
  readonly key: string
  /** Device and mount of the host. */
  readonly device: string
  /** S_IFMT bits: they never change. */
  readonly type: number
  /** How often the guest was told of it and has not forgotten it. */
  lookups: number
}

/** What is known of a file that was just looked up. */
export type NewInode = Pick<Inode, "fd" | "key" | "device" | "type">

/**
 * Files that the guest knows. Node ids are never used again, so an id of a forgotten file names nothing.
 *
 * Each entry costs one fd of the process, which is why there is a limit: a guest can ask for any number of files.
 */
export class InodeTable {
  readonly #byId = new Map<number, Inode>()
  readonly #byKey = new Map<string, Inode>()
  readonly #limit: number
  readonly #onForget: (id: number) => void
  #lastId = FUSE_ROOT_ID

  /**
   * @param root - never forgotten
   * @param limit - most files at a time
   * @param onForget - told of every file that is forgotten
   */
  constructor(root: NewInode, limit: number, onForget: (id: number) => void) {
    this.#limit = limit
    this.#onForget = onForget
    this.#add({ ...root, id: FUSE_ROOT_ID, lookups: 1, procName: procName(root.fd) })
  }

  get size(): number {
    return this.#byId.size
  }

  /** A file that is not known yet would be one too many. */
  get isFull(): boolean {
    return this.#byId.size >= this.#limit
  }

  get(id: number): Inode | undefined {
    return this.#byId.get(id)
  }

  /**
   * The entry of a file, one lookup more; the fd is the table's from now on, closed when it has the file already.
   *
   * @returns undefined when the file is one too many, and its fd closed
   */
  remember(found: NewInode): Inode | undefined {
    const known = this.#byKey.get(found.key)
    if (known) known.lookups++
    if (known || this.isFull) {
      closeFd(found.fd)
      return known
    }
    this.#lastId++
    return this.#add({ ...found, id: this.#lastId, lookups: 1, procName: procName(found.fd) })
  }

  /** The file that this key is of, if the guest knows it already; one lookup more then. */
  recall(key: string): Inode | undefined {
    const known = this.#byKey.get(key)
    if (known) known.lookups++
    return known
  }

  /** The guest takes back `count` lookups; more than there were are taken for all. */
  forget(id: number, count: number): void {
    const inode = this.#byId.get(id)
    if (!inode || id === FUSE_ROOT_ID) return
    inode.lookups -= count
    if (inode.lookups > 0) return
    this.#byId.delete(id)
    this.#byKey.delete(inode.key)
    closeFd(inode.fd)
    this.#onForget(id)
  }

  /** Forgets all but the root. */
  clear(): void {
    for (const id of [...this.#byId.keys()]) this.forget(id, Number.POSITIVE_INFINITY)
  }

  #add(inode: Inode): Inode {
    this.#byId.set(inode.id, inode)
    this.#byKey.set(inode.key, inode)
    return inode
  }
}
