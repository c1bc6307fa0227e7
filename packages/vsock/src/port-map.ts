/**
 * Values by (host port, guest port): two u32 that together do not fit a `number`, hence two levels. A
 * lookup is O(1) and allocates nothing.
 */
export class PortMap<T> {
  readonly #byHostPort = new Map<number, Map<number, T>>()
  #size = 0

  /** Number of values. */
  get size(): number {
    return this.#size
  }

  get(hostPort: number, guestPort: number): T | undefined {
    return this.#byHostPort.get(hostPort)?.get(guestPort)
  }

  /** True when any guest port is connected to `hostPort`. */
  hasHostPort(hostPort: number): boolean {
    return this.#byHostPort.has(hostPort)
  }

  /** Adds a value; the pair must be free. */
  add(hostPort: number, guestPort: number, value: T): void {
    let inner = this.#byHostPort.get(hostPort)
    if (inner === undefined) {
      inner = new Map()
      this.#byHostPort.set(hostPort, inner)
    }
    inner.set(guestPort, value)
    this.#size++
  }

  /** Removes a pair. @returns false when it was not there */
  delete(hostPort: number, guestPort: number): boolean {
    const inner = this.#byHostPort.get(hostPort)
    if (inner === undefined || !inner.delete(guestPort)) return false
    if (inner.size === 0) this.#byHostPort.delete(hostPort)
    this.#size--
    return true
  }

  /** All values, as they are now: the map may change meanwhile. */
  values(): T[] {
    return [...this.#byHostPort.values()].flatMap(inner => [...inner.values()])
  }
}
