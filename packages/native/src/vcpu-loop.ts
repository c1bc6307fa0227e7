import { addon, type NativeVcpuLoop } from "./addon.js"
import type { ExitTable } from "./exit-table.js"
import type { Mapping } from "./mapping.js"

/** What a {@link VcpuLoop} runs, and whom it tells. */
export interface VcpuLoopOptions {
  /** A KVM vCPU. Duplicated: the machine stays as long as the thread. */
  readonly fd: number
  /** Its `kvm_run` page, from {@link Mapping.mapDevice}. Stays mapped as long as the thread lives. */
  readonly run: Mapping
  /** Answers what it can; may be shared by the vCPUs of one machine. */
  readonly table: ExitTable
  /** Name of the thread as /proc shows it, at most 15 bytes of it. */
  readonly name: string
  /** The thread is parked on an exit that the table does not answer. */
  readonly onExit: () => void
  /** The thread is parked as {@link VcpuLoop.pause} wanted. */
  readonly onPaused: () => void
  /** The thread is gone. `errno` is what `KVM_RUN` failed with, 0 after {@link VcpuLoop.stop}. Called exactly once. */
  readonly onEnded: (errno: number) => void
}

const EXIT = 1
const PAUSED = 2
const ENDED = 4

/**
 * Runs a vCPU on a thread of its own: `KVM_RUN` in a loop.
 *
 * ```
 *            .---- an exit that the table answers ----.
 *            v                                        |
 *   new --> in KVM_RUN --- any other exit ---> parked: onExit --- resume() ---> in KVM_RUN
 *            |  '--- pause(), once the last exit is completed ---> parked: onPaused --- unpause() ---> in KVM_RUN
 *            '--- KVM_RUN fails, or stop() in whatever state ---> gone: onEnded
 * ```
 *
 * - While the thread is parked JavaScript owns the `kvm_run` page, else the thread does. `immediate_exit` is never
 *   JavaScript's.
 * - Any other ioctl on the vCPU waits until `KVM_RUN` returns: make them only while the thread is parked.
 * - Callbacks run from the event loop, exits of one vCPU in order. Exits that follow each other at once are
 *   handled in one turn of the loop, for as long as eight wake-ups take (some 0.4 ms; at most 8 ms on a machine that is
 *   overloaded).
 * - The thread is not tied to this object: it runs, and keeps the process alive unless {@link unref} was called,
 *   until it ends. A Worker or process that ends stops its threads.
 */
export class VcpuLoop {
  readonly #native: NativeVcpuLoop

  /**
   * Starts the thread.
   *
   * @throws {@link SysError} `EBADF`, `EMFILE`; `EAGAIN` (no more threads)
   * @throws TypeError for a closed mapping or one that is smaller than `struct kvm_run`
   */
  constructor(options: VcpuLoopOptions) {
    const { fd, run, table, name, onExit, onPaused, onEnded } = options
    this.#native = new addon.VcpuLoop(fd, run.buffer, table.native, name, (events, errno) => {
      // First, as a receiver of bytes could unpause.
      if (events & PAUSED) onPaused()
      try {
        table.flush()
      } finally {
        // A thread that was stopped at an exit wants no answer any more.
        if (events & ENDED) onEnded(errno)
        else if (events & EXIT) onExit()
      }
    })
  }

  /** The exit has been answered in the `kvm_run` page: goes on. False if the thread was not parked on an exit. */
  resume(): boolean {
    return this.#native.resume()
  }

  /**
   * Parks the thread, from wherever it is: in the guest, or halted in the kernel. The last exit is completed before
   * that, so registers are what they are between two instructions. A thread that is parked on an exit does so after
   * {@link resume}.
   */
  pause(): void {
    this.#native.pause()
  }

  /** Takes {@link pause} back, also if the thread has not parked yet. */
  unpause(): void {
    this.#native.unpause()
  }

  /** Ends the thread from every state. An exit that is not answered is not completed. Idempotent. */
  stop(): void {
    this.#native.stop()
  }

  /** Keeps the process alive until the thread ends (the default). */
  ref(): this {
    this.#native.ref()
    return this
  }

  /** Lets the process end although the thread runs. */
  unref(): this {
    this.#native.unref()
    return this
  }
}
