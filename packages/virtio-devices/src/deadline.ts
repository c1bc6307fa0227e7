/**
 * A time limit for something that comes from outside. After this process was kept from looking, Node runs timers before it
 * polls: what has come meanwhile has its turn before it is called late.
 *
 * @example
 * ```ts
 * const deadline = new Deadline(1000, () => socket.destroy())
 * socket.once("data", () => deadline.cancel())
 * ```
 */
export class Deadline {
  readonly #timer: NodeJS.Timeout
  #afterPoll: NodeJS.Immediate | undefined

  /** @param late - called once, unless it is cancelled before */
  constructor(ms: number, late: () => void) {
    this.#timer = setTimeout(() => {
      this.#afterPoll = setImmediate(late)
    }, ms)
  }

  /** It alone keeps no program alive. */
  unref(): this {
    this.#timer.unref()
    return this
  }

  /** Safe to call more than once, and afterwards. */
  cancel(): void {
    clearTimeout(this.#timer)
    clearImmediate(this.#afterPoll)
  }
}
