import { closeFd } from "@ts-vmm/native"

/** An open file or directory of the guest. */
export interface Handle {
  readonly fd: number
  /** Node id of the file. */
  readonly node: number
  readonly isDirectory: boolean
  /** Whether its file system is memory, where reading never waits; undefined until somebody asked. */
  inMemory?: boolean
  /** Writing waits until the data is durable. */
  readonly isSynchronous?: boolean
  /** Directories: position behind the last entry read, as the file system counts; undefined when it is not known. */
  position?: bigint | undefined
}

/** Open files of the guest, by the number that it has for them. Numbers are never used again. */
export class HandleTable {
  readonly #handles = new Map<number, Handle>()
  /** By node id. */
  readonly #ofNode = new Map<number, Set<Handle>>()
  readonly #limit: number
  #last = 0

  constructor(limit: number) {
    this.#limit = limit
  }

  get size(): number {
    return this.#handles.size
  }

  get isFull(): boolean {
    return this.#handles.size >= this.#limit
  }

  /** @returns its number; the fd is the table's from now on */
  add(handle: Handle): number {
    this.#last++
    this.#handles.set(this.#last, handle)
    const others = this.#ofNode.get(handle.node)
    if (others) others.add(handle)
    else this.#ofNode.set(handle.node, new Set([handle]))
    return this.#last
  }

  /** One of those that a file is open by. */
  ofNode(node: number): Handle | undefined {
    return this.#ofNode.get(node)?.values().next().value
  }

  /** An open file. @param node - whose it has to be */
  file(number: number, node: number): Handle | undefined {
    const handle = this.#handles.get(number)
    return handle && !handle.isDirectory && handle.node === node ? handle : undefined
  }

  /** An open directory. @param node - whose it has to be */
  directory(number: number, node: number): Handle | undefined {
    const handle = this.#handles.get(number)
    return handle?.isDirectory && handle.node === node ? handle : undefined
  }

  /** @returns whether there was such a handle */
  close(number: number): boolean {
    const handle = this.#handles.get(number)
    if (!handle) return false
    this.#handles.delete(number)
    const others = this.#ofNode.get(handle.node)
    others?.delete(handle)
    if (others?.size === 0) this.#ofNode.delete(handle.node)
    closeFd(handle.fd)
    return true
  }

  clear(): void {
    for (const number of [...this.#handles.keys()]) this.close(number)
  }
}
