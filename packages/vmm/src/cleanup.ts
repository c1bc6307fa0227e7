/**
 * What has to be undone when something ends, last thing first. Steps are added as things are made, so that a
 * construction which fails in the middle undoes exactly what it did.
 */
export class Cleanup {
  readonly #steps: (() => void | Promise<void>)[] = []

  /** Adds a step; it must not throw. @returns `owned`, so that making and adding is one line */
  add<T>(owned: T, undo: (owned: T) => void | Promise<void>): T {
    this.#steps.push(() => undo(owned))
    return owned
  }

  /** Runs every step, each after the one before it has settled. A second call does nothing. */
  async run(): Promise<void> {
    for (let step = this.#steps.pop(); step; step = this.#steps.pop()) await step()
  }
}
