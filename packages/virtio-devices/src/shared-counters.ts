/**
 * Counters to which several threads add. Each thread has cells of its own, so none waits for another; who reads the
 * counters gets the sum.
 *
 * @example
 * ```ts
 * const shared = new SharedCounters({ reads: 0 }, ["reads"])
 * const cells = shared.grow()                                // goes to the thread, which calls countInto(own, ["reads"], cells)
 * shared.counters.reads                                      // what all have counted
 * shared.fold(cells)                                         // the thread has ended
 * ```
 */
export class SharedCounters<T extends object> {
  /** The object it was made of: its counters are sums from here on. */
  readonly counters: T
  readonly #names: readonly (keyof T)[]
  readonly #own: Float64Array
  readonly #cells = new Set<Float64Array>()

  /** @param names numeric properties of `counters` */
  constructor(counters: T, names: readonly (keyof T)[]) {
    this.counters = counters
    this.#names = names
    this.#own = Float64Array.from(names, name => counters[name] as number)
    names.forEach((name, i) => {
      Object.defineProperty(counters, name, {
        get: () => this.#sum(i),
        set: (value: number) => {
          this.#own[i]! += value - this.#sum(i)
        },
        enumerable: true,
      })
    })
  }

  /** Cells for one thread more. */
  grow(): Float64Array {
    const cells = new Float64Array(new SharedArrayBuffer(8 * this.#names.length))
    this.#cells.add(cells)
    return cells
  }

  /** A thread has ended: keeps what it counted, and not its cells. */
  fold(cells: Float64Array): void {
    if (!this.#cells.delete(cells)) return
    for (const [i, value] of cells.entries()) this.#own[i]! += value
  }

  #sum(i: number): number {
    let sum = this.#own[i]!
    for (const cells of this.#cells) sum += cells[i]!
    return sum
  }
}

/** In a thread: lets the numbers called `names` of `counters` live in `cells`. */
export function countInto<T extends object>(
  counters: T,
  names: readonly (keyof T)[],
  cells: Float64Array,
): void {
  names.forEach((name, i) => {
    Object.defineProperty(counters, name, {
      get: () => cells[i],
      set: (value: number) => {
        cells[i] = value
      },
      enumerable: true,
    })
  })
}
