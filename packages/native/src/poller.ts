import { addon, type NativePoller } from "./addon.js"

/** The fd can be read, or is at its end. */
export const POLL_READABLE = 1
/** The fd can be written. */
export const POLL_WRITABLE = 2
/** The fd broke (the reader of a pipe is gone, say). The poller has stopped; close it. */
export const POLL_ERROR = 4

/** What a {@link Poller} waits for. */
export type PollInterest = "readable" | "writable" | "both"

const EVENTS: Readonly<Record<PollInterest, number>> = {
  readable: POLL_READABLE,
  writable: POLL_WRITABLE,
  both: POLL_READABLE | POLL_WRITABLE,
}

/**
 * Calls back from the event loop while an fd (eventfd, pipe, socket) is ready. Level-triggered: it calls
 * again on every turn of the loop until the callback has read what there is ({@link drain}). At the end of
 * file it is readable for ever, so close it then.
 *
 * It polls a duplicate of the fd: closing the original, or reusing its number, is harmless. `O_NONBLOCK` gets
 * set on the open file description. It must be closed: an open Poller is never garbage-collected, and
 * keeps the process alive unless {@link unref} was called. What the callback throws becomes an
 * `uncaughtException`.
 *
 * @example
 * ```ts
 * const kick = eventFd()
 * using poller = new Poller(kick, "readable", () => {
 *   drain(kick)
 *   queue.process()
 * })
 * ```
 */
export class Poller implements Disposable {
  readonly #native: NativePoller
  /** Native code holds this object until it is collected; the callback, and all it refers to, only until `close`. */
  readonly #target: { callback: ((events: number) => void) | undefined }

  /**
   * @param callback - receives {@link POLL_READABLE}, {@link POLL_WRITABLE} and {@link POLL_ERROR} bits
   * @throws {@link SysError} `EBADF`, `EMFILE`; `EPERM` for a file or directory, which is always ready
   */
  constructor(fd: number, interest: PollInterest, callback: (events: number) => void) {
    const events = EVENTS[interest]
    if (events === undefined) throw new TypeError("interest must be readable, writable or both")
    if (typeof callback !== "function") throw new TypeError("callback must be a function")
    const target: { callback: ((events: number) => void) | undefined } = { callback }
    this.#target = target
    this.#native = new addon.Poller(fd, events, happened => target.callback?.(happened))
  }

  /** Changes what to wait for; `"none"` pauses. No-op once closed. @throws {@link SysError} */
  setInterest(interest: PollInterest | "none"): void {
    const events = interest === "none" ? 0 : EVENTS[interest]
    if (events === undefined) throw new TypeError("interest must be readable, writable, both or none")
    this.#native.setEvents(events)
  }

  /** Keeps the process alive while open (the default). */
  ref(): this {
    this.#native.ref()
    return this
  }

  /** Lets the process end although the poller is open. */
  unref(): this {
    this.#native.unref()
    return this
  }

  /** True after {@link close}. */
  get closed(): boolean {
    return this.#native.closed
  }

  /** No callback runs after this. Allowed inside the callback. Idempotent. */
  close(): void {
    this.#native.close()
    this.#target.callback = undefined
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
