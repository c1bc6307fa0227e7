import { constants } from "node:os"
import { isTaken } from "./lock-table.js"

const { EINTR, ENOLCK } = constants.errno
/** Most that wait at a time: all are asked for again and again. */
const MAX_WAITERS = 256
/** How soon a lock is asked for again, at first and at last, while somebody on the host has it. */
const FIRST_DELAY_MS = 2
const LAST_DELAY_MS = 50

/** A request that waits until a lock is free. */
interface Waiter {
  readonly unique: bigint
  readonly node: number
  readonly deadline: number
  /** Asks for the lock. */
  readonly ask: () => number
  readonly done: (result: number) => void
}

/**
 * Requests that wait for locks (SETLKW). No thread waits with them: what another of this guest's owners gives back is
 * asked for at once, what the host has every so often, 50 ms at most.
 *
 * A wait ends with `EINTR` at an INTERRUPT of its request, or when its time is over: Linux' virtio-fs driver sends no
 * INTERRUPT, and a process that waits for an answer cannot even be killed.
 */
export class LockWaiters {
  readonly #limitMs: number
  #waiters: Waiter[] = []
  #timer: NodeJS.Timeout | undefined
  #delay = FIRST_DELAY_MS

  /** @param limitMs - longest wait */
  constructor(limitMs: number) {
    this.#limitMs = limitMs
  }

  get size(): number {
    return this.#waiters.length
  }

  /** Asks for a lock. @returns the result, undefined when `done` is called with it later */
  ask(unique: bigint, node: number, ask: () => number, done: (result: number) => void): number | undefined {
    // Who came first is served first.
    const isFree = !this.#waiters.some(waiter => waiter.node === node)
    const result = isFree ? ask() : undefined
    if (result !== undefined && !isTaken(result)) return result
    if (this.#waiters.length >= MAX_WAITERS) return -ENOLCK
    this.#waiters.push({ unique, node, deadline: performance.now() + this.#limitMs, ask, done })
    this.#delay = FIRST_DELAY_MS
    this.#start()
    return undefined
  }

  /** Ends the wait of a request. */
  interrupt(unique: bigint): void {
    this.#settle(waiter => (waiter.unique === unique ? -EINTR : undefined))
  }

  /** A lock of this file was given back. */
  retry(node: number): void {
    this.#settle(waiter => (waiter.node === node ? taken(waiter.ask()) : undefined))
  }

  /** Ends all waits. */
  clear(): void {
    this.#settle(() => -EINTR)
  }

  /** Ends the waits that `end` has a result for, in their order. */
  #settle(end: (waiter: Waiter) => number | undefined): void {
    if (this.#waiters.length === 0) return
    const before = this.#waiters
    const ended: (readonly [Waiter, number])[] = []
    this.#waiters = before.filter(waiter => {
      const result = end(waiter)
      if (result !== undefined) ended.push([waiter, result])
      return result === undefined
    })
    if (this.#waiters.length === 0) this.#stop()
    for (const [waiter, result] of ended) waiter.done(result)
  }

  #start(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.#delay = Math.min(this.#delay * 2, LAST_DELAY_MS)
      const now = performance.now()
      this.#settle(waiter => taken(waiter.ask()) ?? (now >= waiter.deadline ? -EINTR : undefined))
      if (this.#waiters.length > 0) this.#start()
    }, this.#delay)
  }

  #stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}

/** The result, unless somebody has the lock. */
function taken(result: number): number | undefined {
  return isTaken(result) ? undefined : result
}
