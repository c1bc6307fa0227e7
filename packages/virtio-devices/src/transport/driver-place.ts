/** Interrupts in a row that say the same before it is believed. */
const SURE = 8
/** Interrupts in a row that say nothing after which what was believed is found out anew. */
const STALE = 64

/**
 * Where a driver runs, as far as its ring tells: beside this thread, on another CPU, or in turns with it on the same one.
 *
 * A driver that shares this CPU and is woken by an interrupt has run, and made more available, by the time that raising it
 * returns. One on another CPU is only about to wake up then. Among thousands of interrupts 97 % and 99.9 % were like that.
 *
 * @example
 * ```ts
 * const before = queue.hasAvailable()
 * interrupt()
 * place.interrupted(before, queue.hasAvailable())
 * ```
 */
export class DriverPlace {
  #asleep = 0
  #unclear = 0

  /** It works while this thread does. False until that is known. */
  get isBeside(): boolean {
    return this.#asleep === SURE
  }

  /** An interrupt was raised. @param before - something was available @param after - the same, once it was raised */
  interrupted(before: boolean, after: boolean): void {
    if (before) {
      // It would have been there anyway.
      if (++this.#unclear === STALE) this.#asleep = this.#unclear = 0
      return
    }
    this.#unclear = 0
    this.#asleep = after ? 0 : Math.min(SURE, this.#asleep + 1)
  }
}
