import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import { BalloonDevice, BalloonError, type BalloonStatistics } from "@ts-vmm/virtio-devices/balloon"
import { MemDevice } from "@ts-vmm/virtio-devices/mem"
import { type Deferred, deferred, pickWait, type WaitOptions, withDeadline } from "../deadline.js"
import { SandboxError, type SandboxErrorCode } from "../errors.js"
import { Inflation } from "./inflation.js"
import { checkSize, checkTarget, type MemoryConfig } from "./options.js"

const MIB = 1024 * 1024
/** How long a guest may take for its answer, and for giving away what it can. */
const ANSWER_TIMEOUT_MS = 5_000
const RECLAIM_TIMEOUT_MS = 30_000
const RESIZE_TIMEOUT_MS = 30_000
/** What `reclaim` leaves a guest to work with meanwhile: this much, or a 32nd of its RAM. */
const MIN_RESERVE = 8 * MIB
const RESERVE_PART = 32

/** How much memory a sandbox has, in MiB; what the guest has is its own word. */
export interface MemorySizes {
  /** Its RAM: what it was made with, and what it was given since. */
  readonly sizeMiB: number
  /** Most RAM that it can be given. */
  readonly maxMiB: number
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
  readonly devices: readonly VirtioDevice[]
  readonly maxMiB: number
  readonly #bootMiB: number
  readonly #balloon: BalloonDevice
  /** Where there can be more RAM than at boot. */
  readonly #mem: MemDevice | undefined
  /** Bytes that belong into the balloon. */
  #wanted: number
  #inflation: Inflation | undefined
  #resized: Deferred<void> | undefined

  constructor({ memoryMiB, memoryTargetMiB, memoryMaxMiB }: MemoryConfig) {
    this.#bootMiB = memoryMiB
    this.maxMiB = memoryMaxMiB
    this.#balloon = new BalloonDevice({
      deflateOnOom: true,
      reporting: true,
      onActual: () => this.#inflation?.look(),
    })
    const regionSize = (memoryMaxMiB - memoryMiB) * MIB
    this.#mem = regionSize > 0 ? new MemDevice({ regionSize, onPlugged: () => this.#onPlugged() }) : undefined
    this.devices = this.#mem ? [this.#balloon, this.#mem] : [this.#balloon]
    this.#wanted = (memoryMiB - memoryTargetMiB) * MIB
    this.#balloon.setTarget(this.#wanted)
  }

  get sizeMiB(): number {
    return this.#bootMiB + (this.#mem?.pluggedSize ?? 0) / MIB
  }

  get targetMiB(): number {
    return this.sizeMiB - this.#wanted / MIB
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
    const target = checkTarget("the target", targetMiB, this.sizeMiB)
    this.#wanted = (this.sizeMiB - target) * MIB
    this.#inflation?.abandon()
    this.#balloon.setTarget(this.#wanted)
  }

  /**
   * Gives the guest more RAM, or takes that again, in steps of 2 MiB, from what it was made with to `maxMiB`. It is asked
   * for, and a guest that uses the memory gives it back as far, and when, it can; {@link targetMiB} moves along.
   *
   * @param options - `timeoutMs`: default 30,000. The guest goes on trying after that.
   * @throws SandboxError `invalid-argument`; `timeout`, `aborted`
   */
  async resize(sizeMiB: number, options: WaitOptions = {}): Promise<void> {
    const { timeoutMs = RESIZE_TIMEOUT_MS } = options
    const more = checkSize(sizeMiB, this.#bootMiB, this.maxMiB) - this.#bootMiB
    if (!this.#mem) return
    this.#resized ??= deferred()
    this.#mem.setRequestedSize(more * MIB)
    const resized = this.#resized.promise
    this.#onPlugged()
    await withDeadline(
      resized,
      `the change of the guest's RAM to ${sizeMiB} MiB`,
      pickWait({ ...options, timeoutMs }),
    )
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

  #onPlugged(): void {
    if (this.#mem?.pluggedSize !== this.#mem?.requestedSize) return
    this.#resized?.resolve()
    this.#resized = undefined
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
