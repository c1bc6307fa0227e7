import { closeFd, drain, type FdOrigin, fdOrigin, Poller, SysError, signal } from "@ts-vmm/native"
import type { GuestAddress } from "@ts-vmm/vm-memory"
import { VhostUserError } from "./errors.js"
import type { VringAddr } from "./message.js"

/** How often a ring without a kick fd is looked at. */
const POLL_INTERVAL_MS = 1

/** Ring parts as guest addresses. */
export interface RingAddresses {
  readonly desc: GuestAddress
  readonly driver: GuestAddress
  readonly device: GuestAddress
}

/**
 * What a front end has said about one ring so far, and the fds it sent for it.
 *
 * ```
 *             KICK, ENABLE 1                       (a queue exists)
 *   stopped ------------------> running <------------.
 *      ^                          |  ENABLE 0        | ENABLE 1
 *      |       GET_VRING_BASE     '------> disabled -'
 *      '-------------------------------------'
 * ```
 */
export class Vring {
  readonly index: number
  /** Descriptors; 0 until SET_VRING_NUM. */
  size = 0
  /** Next available index; packed: with wrap counters, see {@link encodeBase}. */
  base = 0
  addr: VringAddr | undefined
  enabled = false
  /** SET_VRING_CALL came, with or without an fd. */
  callKnown = false
  /** SET_VRING_KICK came, with or without an fd. */
  kickKnown = false
  readonly #onKick: () => void
  readonly #close: (fd: number) => void
  #poller: Poller | undefined
  #pollTimer: NodeJS.Timeout | undefined
  #kickFd = -1
  readonly #call: SignalFd
  readonly #err: SignalFd

  /** @param close lets an fd go that is not needed any more; by default it is closed */
  constructor(index: number, onKick: () => void, close: (fd: number) => void = closeFd) {
    this.index = index
    this.#onKick = onKick
    this.#close = close
    this.#call = new SignalFd(close)
    this.#err = new SignalFd(close)
  }

  /** Everything that a ring needs to run has been said. */
  get complete(): boolean {
    return this.size > 0 && this.addr !== undefined && this.kickKnown
  }

  /** @param fd owned from here on; -1: the ring is polled */
  setKick(fd: number): void {
    this.#check(fd)
    const listening = this.#poller !== undefined || this.#pollTimer !== undefined
    this.forgetKick()
    this.#kickFd = fd
    this.kickKnown = true
    if (listening) this.listen()
  }

  /** @param fd owned from here on; -1: no interrupts */
  setCall(fd: number): void {
    this.#check(fd)
    this.#call.set(fd)
    this.callKnown = true
  }

  /** @param fd owned from here on; -1: none */
  setErr(fd: number): void {
    this.#check(fd)
    this.#err.set(fd)
  }

  /** Starts to hear kicks. */
  listen(): void {
    if (this.#poller || this.#pollTimer) return
    if (this.#kickFd < 0) {
      this.#pollTimer = setInterval(this.#onKick, POLL_INTERVAL_MS)
      return
    }
    const fd = this.#kickFd
    this.#poller = new Poller(fd, "readable", () => {
      // At the end of a pipe, or on an fd that cannot be read, it would fire for ever.
      if (!drained(fd)) this.unlisten()
      this.#onKick()
    })
  }

  /** Stops hearing kicks; they stay pending. */
  unlisten(): void {
    this.#poller?.close()
    this.#poller = undefined
    clearInterval(this.#pollTimer)
    this.#pollTimer = undefined
  }

  /** Used-buffer interrupt. A peer that is gone is found out on the socket. */
  interrupt(): void {
    this.#call.raise()
  }

  /** Tells the front end that the ring broke. */
  raiseError(): void {
    this.#err.raise()
  }

  /** Forgets everything and closes every fd. */
  close(): void {
    this.forgetKick()
    this.setCall(-1)
    this.setErr(-1)
    this.callKnown = false
    this.addr = undefined
    this.size = 0
    this.base = 0
    this.enabled = false
  }

  /** Closes the kick fd: a new one has to come before the ring runs again. */
  forgetKick(): void {
    this.unlisten()
    if (this.#kickFd >= 0) this.#close(this.#kickFd)
    this.#kickFd = -1
    this.kickKnown = false
  }

  /** @throws VhostUserError `protocol`; `fd` is let go then */
  #check(fd: number): void {
    if (fd < 0) return
    const origin = fdOrigin(fd)
    if (origin === "eventfd" || origin === "pipe" || origin === "socket") return
    this.#close(fd)
    throw new VhostUserError(
      "protocol",
      `ring ${this.index} cannot be signalled through a file of kind ${origin}`,
      { queue: this.index },
    )
  }
}

/** An fd to raise signals on. */
class SignalFd {
  readonly #close: (fd: number) => void
  #fd = -1
  #origin: FdOrigin = "other"

  constructor(close: (fd: number) => void) {
    this.#close = close
  }

  /** @param fd owned from here on; -1: none */
  set(fd: number): void {
    if (this.#fd >= 0) this.#close(this.#fd)
    this.#fd = fd
    this.#origin = fd < 0 ? "other" : fdOrigin(fd)
  }

  raise(): void {
    if (this.#fd < 0) return
    try {
      signal(this.#fd, this.#origin)
    } catch {
      // The reader is gone: nobody is left to tell.
      this.set(-1)
    }
  }
}

/** False when no kick can come over `fd` any more: the peer closed its end, or sent an fd that is no kick's. */
function drained(fd: number): boolean {
  try {
    return drain(fd) >= 0
  } catch (error) {
    if (error instanceof SysError) return false
    throw error
  }
}
