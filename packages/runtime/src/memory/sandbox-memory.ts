import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import { BalloonDevice, BalloonError, type BalloonStatistics } from "@ts-vmm/virtio-devices/balloon"
import { pickWait, type WaitOptions, withDeadline } from "../deadline.js"
import { SandboxError, type SandboxErrorCode } from "../errors.js"
import { Inflation } from "./inflation.js"
import { checkTarget } from "./options.js"

const MIB = 1024 * 1024
/** How long a guest may take for its answer, and for giving away what it can. */
const ANSWER_TIMEOUT_MS = 5_000
const RECLAIM_TIMEOUT_MS = 30_000
/** What `reclaim` leaves a guest to work with meanwhile: this much, or a 32nd of its RAM. */
const MIN_RESERVE = 8 * MIB
const RESERVE_PART = 32

/** How much memory a sandbox has, in MiB; what the guest has is its own word. */
export interface MemorySizes {
  /** RAM that it was made with. */
  readonly sizeMiB: number
  /** What it is asked to get along with. */
  readonly targetMiB: number
  /** What it has at the moment: `sizeMiB` without what is in the balloon. */
  readonly usableMiB: number
}

/**
 * The memory of a running sandbox. Pages that the guest has free go back to the host by themselves, a few seconds after
 * they were freed (free page reporting); a target takes memory from the guest, `reclaim` what it has free at once.
 *
 * All of that is asked of the guest, whose kernel may refuse, and takes back what it needs before it kills programs for
 * want of memory: what must hold is held by limits of the host (cgroups).
 *
 * @see virtio 1.3, section 5.5
 *
 * @example
 * ```ts
 * import { Sandbox } from "@ts-vmm/runtime"
 *
 * await using sandbox = await Sandbox.create({ image: "oci:./image", memoryMiB: 1024 })
 * sandbox.memory.setTarget(256)
 * const { availableBytes } = await sandbox.memory.statistics()
 * const givenBack = await sandbox.memory.reclaim({ timeoutMs: 2000 })
 * ```
 */
export class SandboxMemory implements MemorySizes {
  /** For the machine. */
  readonly device: VirtioDevice
  readonly sizeMiB: number
  readonly #balloon: BalloonDevice
  #targetMiB: number
  #inflation: Inflation | undefined

  /** @param targetMiB - default all of it */
  constructor(sizeMiB: number, targetMiB = sizeMiB) {
    this.sizeMiB = sizeMiB
    this.#balloon = new BalloonDevice({
      deflateOnOom: true,
      reporting: true,
      onActual: () => this.#inflation?.look(),
    })
    this.device = this.#balloon
    this.#targetMiB = targetMiB
    this.#balloon.setTarget(this.#wanted)
  }

  get targetMiB(): number {
    return this.#targetMiB
  }

  get usableMiB(): number {
    return Math.max(0, this.sizeMiB - Math.round(this.#balloon.actual / MIB))
  }

  /** Bytes that the guest gave back so far, by whatever way; some may have been taken again. */
  get freedBytes(): number {
    return this.#balloon.counters.freedBytes
  }

  /**
   * Asks the guest to get along with `targetMiB` of its RAM; it may take its time, and watch {@link usableMiB}.
   * @throws SandboxError `invalid-argument`
   */
  setTarget(targetMiB: number): void {
    this.#targetMiB = checkTarget("the target", targetMiB, this.sizeMiB)
    this.#inflation?.abandon()
    this.#balloon.setTarget(this.#wanted)
  }

  /**
   * What the guest says of its memory.
   *
   * @param options - `timeoutMs`: default 5000
   * @throws SandboxError `timeout`, `aborted`; `memory-unavailable` when the guest's kernel has no driver for it
   */
  async statistics(options: WaitOptions = {}): Promise<BalloonStatistics> {
    const { timeoutMs = ANSWER_TIMEOUT_MS } = options
    const asked = this.#balloon.statistics({ timeoutMs }).catch(throwAsSandboxError)
    return await withDeadline(asked, "the guest's statistics", pickWait({ ...options, timeoutMs }))
  }

  /**
   * Takes what the guest has free, now, and lets it have it again: pages that it freed go back to the host without
   * waiting for its reports. What lies in its caches stays. Calls that overlap share one round.
   *
   * @param options - `timeoutMs`: default 30,000. What was given until then stays given.
   * @returns bytes that it gave away, touched ever or not
   * @throws SandboxError as {@link statistics}
   */
  async reclaim(options: WaitOptions = {}): Promise<number> {
    const { timeoutMs = RECLAIM_TIMEOUT_MS } = options
    const startedAt = performance.now()
    const { freeBytes = 0 } = await this.statistics({ ...options, timeoutMs })
    const reserve = Math.max(MIN_RESERVE, (this.sizeMiB * MIB) / RESERVE_PART)
    const left = Math.max(0, timeoutMs - (performance.now() - startedAt))
    this.#inflation ??= this.#inflate(Math.max(0, freeBytes - reserve))
    const inflated = this.#inflation.ended
    try {
      return await withDeadline(
        inflated,
        "taking the guest's free memory",
        pickWait({ ...options, timeoutMs: left }),
      )
    } catch (error) {
      this.#inflation?.abandon()
      throw error
    }
  }

  /** Bytes that belong into the balloon. */
  get #wanted(): number {
    return (this.sizeMiB - this.#targetMiB) * MIB
  }

  #inflate(bytes: number): Inflation {
    const inflation = new Inflation(this.#balloon, bytes)
    inflation.ended.finally(() => {
      this.#inflation = undefined
      this.#balloon.setTarget(this.#wanted)
    })
    return inflation
  }
}

function throwAsSandboxError(error: unknown): never {
  if (!(error instanceof BalloonError)) throw error
  const code: SandboxErrorCode = error.code === "timeout" ? "timeout" : "memory-unavailable"
  const hint = code === "timeout" ? "" : ": its kernel has no driver for the memory balloon, or has ended"
  throw new SandboxError(code, `${error.message}${hint}`, { cause: error })
}
