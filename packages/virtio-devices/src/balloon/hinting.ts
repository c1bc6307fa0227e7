import type { GuestMemory } from "@ts-vmm/vm-memory"
import type { DescriptorChain } from "../queue/chain.js"
import * as defs from "./defs.js"
import { BalloonError } from "./errors.js"
import { eachRamPart } from "./guest-pages.js"

/** How a round of hinting is run. */
export interface HintOptions {
  /** Told of every run of pages: first guest address and length, bytes, whole pages of guest RAM. */
  readonly onPages: (start: number, size: number) => void
  /** How long the guest may take for the whole round, milliseconds. Default 10,000. */
  readonly timeoutMs?: number
}

interface Round {
  readonly onPages: HintOptions["onPages"]
  readonly timer: NodeJS.Timeout
  bytes: number
  resolve(bytes: number): void
  reject(error: unknown): void
}

/**
 * The commands of free page hinting.
 *
 * ```
 *   host:   id 2 ----------------------------------------------> DONE ........ id 3
 *   guest:       "id 2"  pages  pages  pages ...  STOP               keeps none
 *                       '-- counted and passed on --'
 * ```
 *
 * @see virtio 1.3, section 5.5.6.5
 */
export class Hinting {
  readonly #publish: (command: number) => void
  /** What config space says. */
  #command: number = defs.VIRTIO_BALLOON_CMD_ID_STOP
  #next = defs.FIRST_COMMAND
  /** The driver's pages belong to the command that config space says. */
  #matching = false
  #round: Round | undefined

  /** @param publish puts a command into config space and tells the driver */
  constructor(publish: (command: number) => void) {
    this.#publish = publish
  }

  /** @throws BalloonError (as a rejection) `busy`, `timeout`, `reset`; and what `onPages` throws */
  start({ onPages, timeoutMs = 10_000 }: HintOptions): Promise<number> {
    if (this.#round) return Promise.reject(new BalloonError("busy", "a round of hinting is under way"))
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#fail(new BalloonError("timeout", `the guest did not end its hints within ${timeoutMs} ms`))
      }, timeoutMs)
      this.#round = { onPages, timer, bytes: 0, resolve, reject }
      this.#matching = false
      this.#say(this.#next)
      this.#next = this.#next === 0xffff_ffff ? defs.FIRST_COMMAND : this.#next + 1
    })
  }

  /** The guest may have its pages back. */
  release(): void {
    if (this.#round)
      this.#fail(new BalloonError("reset", "the hints were released before the guest was done"))
    else if (this.#command !== defs.VIRTIO_BALLOON_CMD_ID_DONE) this.#say(defs.VIRTIO_BALLOON_CMD_ID_DONE)
  }

  /** Takes a command out of a chain, if it has one. @returns true when the pages of the chain are wanted */
  accept(chain: DescriptorChain): boolean {
    if (chain.readableLength > 0) this.#readCommand(chain)
    return this.#matching
  }

  /** Pages of an accepted chain. */
  pages(memory: GuestMemory, start: number, size: number): void {
    const round = this.#round
    // The round can end while a long chain is worked on.
    if (!round) return
    try {
      round.bytes += eachRamPart(memory, start, size, round.onPages)
    } catch (error) {
      this.#fail(error)
    }
  }

  /** The device was reset: config space starts afresh. */
  end(): void {
    this.#command = defs.VIRTIO_BALLOON_CMD_ID_STOP
    this.#matching = false
    this.#take()?.reject(new BalloonError("reset", "the driver reset the balloon"))
  }

  #readCommand(chain: DescriptorChain): void {
    const bytes = new Uint8Array(4)
    const whole = chain.read(0, bytes) === bytes.length && chain.readableLength === bytes.length
    const command = whole ? new DataView(bytes.buffer).getUint32(0, true) : defs.VIRTIO_BALLOON_CMD_ID_STOP
    const ended = this.#matching && command === defs.VIRTIO_BALLOON_CMD_ID_STOP
    this.#matching = this.#round !== undefined && command === this.#command
    if (!ended) return
    const round = this.#take()
    round?.resolve(round.bytes)
  }

  #fail(error: unknown): void {
    const round = this.#take()
    this.#matching = false
    this.#say(defs.VIRTIO_BALLOON_CMD_ID_DONE)
    round?.reject(error)
  }

  #take(): Round | undefined {
    const round = this.#round
    this.#round = undefined
    clearTimeout(round?.timer)
    return round
  }

  #say(command: number): void {
    this.#command = command
    this.#publish(command)
  }
}
