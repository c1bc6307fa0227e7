import { closeFd } from "@ts-vmm/native"

/** An open file or directory of the guest. */
export interface Handle {
  readonly fd: number
  readonly isDirectory: boolean
  /** Whether its file system is memory, where reading never waits; undefined until somebody asked. */
  inMemory?: boolean
  /** Directories: position behind the last entry read, as the file system counts; undefined when it is not known. */
  position?: bigint | undefined
}

/** Open files of the guest, by the number that it has for them. Numbers are never used again. */
export class HandleTable {
  readonly #handles = new Map<number, Handle>()
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
    return this.#last
  }

  file(number: number): Handle | undefined {
    const handle = this.#handles.get(number)
    return handle?.isDirectory ? undefined : handle
  }

  directory(number: number): Handle | undefined {
    const handle = this.#handles.get(number)
    return handle?.isDirectory ? handle : undefined
  }

  close(number: number): void {
    const handle = this.#handles.get(number)
    if (!handle) return
    this.#handles.delete(number)
    closeFd(handle.fd)
  }

  clear(): void {
    for (const number of [...this.#handles.keys()]) this.close(number)
  }
}
