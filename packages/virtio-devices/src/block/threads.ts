import { closeFd, duplicateFd } from "@ts-vmm/native"
import type { DevicePart, DeviceThreads } from "../device.js"
import { SharedCounters } from "../shared-counters.js"
import type { BlockBackend } from "./backend.js"
import { BLOCK_COUNTER_NAMES, type BlockCounters } from "./counters.js"
import { BlockError } from "./errors.js"
import type { RawFile } from "./raw-file.js"

/** The options of a device that its parts have as well. */
export interface BlockPartOptions {
  readonly serial: string
  readonly queues: number
  readonly queueSize: number
  readonly blockSize: number
}

/** What a thread makes its part of a disk from; see `makeBlockPart`. */
export interface BlockPartData {
  readonly kind: "block"
  readonly file: RawFile
  readonly options: BlockPartOptions
  /** Where it counts, in the order of `BLOCK_COUNTER_NAMES`. */
  readonly counters: Float64Array
}

/** What a part says: the errno, positive, of a write that the host could not do. */
export interface BlockPartMessage {
  readonly writeError: number
}

/** Shares a disk out: each thread gets the file on fds of its own, and cells to count in. */
export class BlockThreads implements DeviceThreads {
  readonly count: number
  readonly #file: RawFile
  readonly #options: BlockPartOptions
  readonly #counters: SharedCounters<BlockCounters>
  readonly #onWriteError: ((errno: number) => void) | undefined
  readonly #listeners = new Set<() => void>()

  /**
   * @param counters what all parts count together is found there from here on
   * @throws BlockError `unsupported` for a disk that is not one raw file
   */
  constructor(
    count: number,
    { shareable }: BlockBackend,
    options: BlockPartOptions,
    counters: BlockCounters,
    { onWriteError }: { readonly onWriteError?: (errno: number) => void },
  ) {
    if (!shareable) throw new BlockError("unsupported", "only a disk that is one raw file can have threads")
    this.count = count
    this.#file = shareable
    this.#options = options
    this.#counters = new SharedCounters(counters, BLOCK_COUNTER_NAMES)
    this.#onWriteError = onWriteError
  }

  /** @throws SysError `EMFILE`, `EBADF` when the backend was closed */
  open(): DevicePart {
    const file = duplicate(this.#file)
    const counters = this.#counters.grow()
    const data: BlockPartData = { kind: "block", file, options: this.#options, counters }
    return {
      data,
      heard: message => this.#onWriteError?.((message as BlockPartMessage).writeError),
      close: () => {
        closeFd(file.fd)
        if (file.directFd !== undefined) closeFd(file.directFd)
        this.#counters.fold(counters)
      },
    }
  }

  onChange(changed: () => void): () => void {
    this.#listeners.add(changed)
    return () => this.#listeners.delete(changed)
  }

  /** The size of the image changed. */
  changed(): void {
    for (const listener of this.#listeners) listener()
  }
}

function duplicate(file: RawFile): RawFile {
  const fd = duplicateFd(file.fd)
  if (file.directFd === undefined) return { ...file, fd }
  try {
    return { ...file, fd, directFd: duplicateFd(file.directFd) }
  } catch (error) {
    closeFd(fd)
    throw error
  }
}
