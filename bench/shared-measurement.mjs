/**
 * One measurement that yields figures for several cases: it is taken when the first case of a round asks, and the
 * others of that round get theirs from it.
 * @template T
 */
export class SharedMeasurement {
  #take
  /** @type {T[]} */
  #taken = []
  #served = new Map()

  /** @param {() => Promise<T>} take */
  constructor(take) {
    this.#take = take
  }

  /**
   * @param {string} name of the case that asks; its nth call is for its nth round
   * @param {(measured: T) => number} of
   */
  async figure(name, of) {
    const round = this.#served.get(name) ?? 0
    this.#served.set(name, round + 1)
    while (this.#taken.length <= round) this.#taken.push(await this.#take())
    return of(this.#taken[round])
  }
}
