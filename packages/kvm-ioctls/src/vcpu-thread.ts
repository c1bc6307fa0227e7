import { type ExitTable, VcpuLoop } from "@ts-vmm/native"
import { invalidArgument } from "./errors.js"
import type { VcpuExit } from "./exit.js"
import type { VcpuFd } from "./vcpu.js"

// What a caller needs beside the thread; native is not for everybody.
export {
  type ExitRow,
  type ExitSpace,
  ExitTable,
  type ExitTableOptions,
  type ReadAction,
  type WriteAction,
} from "@ts-vmm/native"

/** See {@link VcpuThread}. */
export interface VcpuThreadOptions {
  /** Number of the vCPU; the thread is called `vcpu<index>`. */
  readonly index: number
  /** Answers exits without JavaScript. The vCPUs of one machine share it. */
  readonly answers: ExitTable
  /**
   * Answers one exit, in place: the exit's views are the page that the vCPU shares with the kernel. The vCPU goes on when
   * this returns, or when the promise that it returns resolves. What it throws, or rejects with, ends the thread.
   */
  readonly onExit: (exit: VcpuExit) => void | Promise<void>
}

/**
 * Where a {@link VcpuThread} is in its life:
 * - `created` not started yet
 * - `running` in the guest, halted, or at an exit
 * - `pausing` as `running`, until {@link VcpuThread.pause} has parked it
 * - `paused` parked; registers and the `kvm_run` page are the caller's
 * - `stopping` told to end
 * - `ended` gone
 */
export type VcpuThreadState = "created" | "running" | "pausing" | "paused" | "stopping" | "ended"

/** How a thread ended. */
export interface VcpuThreadEnd {
  /** What `KVM_RUN` failed with (14, `EFAULT`, say); absent after {@link VcpuThread.stop}. */
  readonly errno?: number
}

/**
 * Runs a vCPU on a native thread, so that guests compute while JavaScript does something else.
 *
 * ```
 *            start()           pause()            parked
 *   created --------> running ---------> pausing --------> paused
 *      |                ^  |                |                |
 *      |                |  |                |    resume()    |
 *      |                '--|----------------'----------------'
 *      |                   |  stop(), KVM_RUN failed, or onExit threw, from every state
 *      '-------------------'---------------------------------------> stopping --> ended
 * ```
 *
 * Exits that the {@link ExitTable} answers never come here. At any other exit the thread parks and `onExit` is called
 * from the event loop; while the thread is parked JavaScript owns the `kvm_run` page and may call the vCPU's methods, at
 * all other times these would wait for the guest.
 *
 * A process or Worker that ends takes its threads with it. A thread keeps the process alive unless {@link unref} is
 * called.
 *
 * @example
 * ```ts
 * import { ExitTable, VcpuThread } from "@ts-vmm/kvm-ioctls"
 *
 * const table = new ExitTable({ rows: [{ space: "pio", start: 0x60, end: 0x65, read: "deliver", write: "deliver" }] })
 * const thread = new VcpuThread(vcpu, {
 *   index: 0,
 *   answers: table,
 *   onExit: exit => {
 *     if (exit.reason === "io" && exit.direction === "in") exit.data.fill(0)
 *     if (exit.reason === "hlt") void thread.stop()
 *   },
 * })
 * thread.start()
 * await thread.ended
 * ```
 *
 * @see Documentation/virt/kvm/api.rst, 5. The kvm_run structure (immediate_exit)
 */
export class VcpuThread implements AsyncDisposable {
  /**
   * Settles when the thread is gone. Rejects with what `onExit` threw; that is no unhandled rejection if nobody looks.
   */
  readonly ended: Promise<VcpuThreadEnd>
  readonly #vcpu: VcpuFd
  readonly #options: VcpuThreadOptions
  #state: VcpuThreadState = "created"
  #loop: VcpuLoop | undefined
  #referenced = true
  #failure: { readonly error: unknown } | undefined
  #settle!: (end: VcpuThreadEnd | Promise<never>) => void
  #parked: Promise<void> = Promise.resolve()
  #resolveParked: () => void = () => undefined

  constructor(vcpu: VcpuFd, options: VcpuThreadOptions) {
    this.#vcpu = vcpu
    this.#options = options
    this.ended = new Promise(resolve => {
      this.#settle = resolve
    })
    this.ended.catch(() => undefined)
  }

  /** Where it is in its life. */
  get state(): VcpuThreadState {
    return this.#state
  }

  /**
   * Runs the vCPU.
   *
   * @throws KvmError `invalid-argument` unless it is `created`; SysError `EAGAIN`, `EMFILE`
   */
  start(): void {
    if (this.#state !== "created")
      throw invalidArgument(`a vCPU thread that is ${this.#state} cannot be started`)
    const { index, answers } = this.#options
    this.#loop = new VcpuLoop({
      fd: this.#vcpu.fd,
      run: this.#vcpu.runMapping,
      table: answers,
      name: `vcpu${index}`,
      onExit: () => this.#answer(),
      onPaused: () => this.#onPaused(),
      onEnded: errno => this.#onEnded(errno),
    })
    this.#state = "running"
    if (!this.#referenced) this.#loop.unref()
  }

  /**
   * Takes the vCPU out of the guest; resolves when it is parked between two instructions, every exit completed. That
   * includes an exit whose `onExit` is under way: awaiting this in there would wait for ever. Resolves as well when
   * {@link resume} takes it back, or the thread ends. Before {@link start} there is nothing to do.
   */
  pause(): Promise<void> {
    if (this.#state === "stopping") return this.stop()
    if (this.#state !== "running") return this.#parked
    this.#state = "pausing"
    this.#parked = new Promise(resolve => {
      this.#resolveParked = resolve
    })
    this.#loop?.pause()
    return this.#parked
  }

  /** Takes {@link pause} back. Does nothing if the vCPU is neither paused nor about to be. */
  resume(): void {
    if (this.#state !== "paused" && this.#state !== "pausing") return
    this.#state = "running"
    this.#loop?.unpause()
    this.#resolveParked()
  }

  /**
   * Ends the thread from every state, also if the guest spins with interrupts off or `onExit` is under way; resolves
   * when it is gone.
   */
  async stop(): Promise<void> {
    if (this.#state === "created") this.#onEnded(0)
    if (this.#state !== "ended") this.#state = "stopping"
    this.#loop?.stop()
    await this.ended.catch(() => undefined)
  }

  /** Keeps the process alive until the thread ends (the default). */
  ref(): this {
    this.#referenced = true
    this.#loop?.ref()
    return this
  }

  /** Lets the process end although the thread runs. */
  unref(): this {
    this.#referenced = false
    this.#loop?.unref()
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  #answer(): void {
    const goOn = (): void => void this.#loop?.resume()
    try {
      const answered = this.#options.onExit(this.#vcpu.decodeExit())
      if (answered instanceof Promise) answered.then(goOn, error => this.#fail(error))
      else goOn()
    } catch (error) {
      this.#fail(error)
    }
  }

  #fail(error: unknown): void {
    this.#failure ??= { error }
    void this.stop()
  }

  #onPaused(): void {
    this.#state = "paused"
    this.#resolveParked()
  }

  #onEnded(errno: number): void {
    this.#state = "ended"
    this.#resolveParked()
    if (this.#failure !== undefined) this.#settle(Promise.reject(this.#failure.error))
    else this.#settle(errno === 0 ? {} : { errno })
  }
}
