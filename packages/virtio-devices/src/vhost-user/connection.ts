import { closeFd, POLL_ERROR, Poller, receiveMessage, SysError, sendMessage } from "@ts-vmm/native"
import { Deadline } from "../deadline.js"
import { VHOST_MEMORY_MAX_NREGIONS, VHOST_USER_HEADER_SIZE, VHOST_USER_MAX_PAYLOAD } from "./defs.js"
import { VhostUserError } from "./errors.js"
import { decodeHeader, type MessageHeader } from "./message.js"

/** Messages handled in one turn of the event loop before others get theirs. */
const MESSAGES_PER_TURN = 16

/** The fds of one message. What nobody takes is closed when the message has been handled. */
export class MessageFds {
  readonly #fds: (number | undefined)[]

  constructor(fds: readonly number[]) {
    this.#fds = [...fds]
  }

  get length(): number {
    return this.#fds.length
  }

  /** The fd numbers, still owned by the message. */
  get borrowed(): readonly number[] {
    return this.#fds.filter(fd => fd !== undefined)
  }

  /** Fd `i`, from now on the caller's to close; undefined when there is none. */
  take(i: number): number | undefined {
    const fd = this.#fds[i]
    this.#fds[i] = undefined
    return fd
  }

  /** Closes what was not taken. */
  close(): void {
    for (let i = 0; i < this.#fds.length; i++) {
      const fd = this.take(i)
      if (fd !== undefined) closeFd(fd)
    }
  }
}

/** What a connection tells its owner. */
export interface ConnectionHandler {
  /** A header arrived: throw to refuse it before a payload byte is read. */
  header(header: MessageHeader): void
  /**
   * A whole message. `payload` is valid until this returns. A promise holds back what follows until it
   * settles; a throw ends the connection.
   */
  message(header: MessageHeader, payload: Uint8Array, fds: MessageFds): Promise<void> | void
  /** Called once, unless `close` ended it. `error` is undefined when the peer closed between two messages. */
  ended(error: VhostUserError | undefined): void
}

/**
 * Frames vhost-user messages on a non-blocking stream socket. Owns the fd. Never blocks and never waits for a
 * slow peer longer than `timeoutMs`; every fd received is handed on or closed, on every path.
 */
export class Connection {
  readonly #fd: number
  readonly #handler: ConnectionHandler
  readonly #poller: Poller
  readonly #timeoutMs: number
  readonly #buffer = new Uint8Array(VHOST_USER_HEADER_SIZE + VHOST_USER_MAX_PAYLOAD)
  #have = 0
  #header: MessageHeader | undefined
  #fds = new MessageFds([])
  #deadline: Deadline | undefined
  #busy = false
  #closed = false

  /**
   * @param fd a connected SOCK_STREAM socket
   * @param timeoutMs how long a message may take from its first byte to its last
   */
  constructor(fd: number, handler: ConnectionHandler, timeoutMs: number) {
    this.#fd = fd
    this.#handler = handler
    this.#timeoutMs = timeoutMs
    this.#poller = new Poller(fd, "readable", events => {
      this.#readable(events)
    })
  }

  get closed(): boolean {
    return this.#closed
  }

  /**
   * Sends one whole message.
   *
   * @throws VhostUserError `peer-stalled` when the socket cannot take all of it at once: a peer that reads its
   *   answers never lets that happen; `disconnected`; `closed`
   */
  send(message: Uint8Array, fds: readonly number[] = []): void {
    if (this.#closed) throw new VhostUserError("closed", "connection was closed")
    let sent: number | undefined
    try {
      sent = sendMessage(this.#fd, message, fds)
    } catch (cause) {
      throw new VhostUserError("disconnected", "peer closed the connection", { cause })
    }
    if (sent !== message.length) {
      throw new VhostUserError("peer-stalled", `peer took ${sent ?? 0} of ${message.length} bytes`, {
        value: sent ?? 0,
      })
    }
  }

  /** Closes the socket and what was received and not handed on. Idempotent; `ended` is not called. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#stopWatching()
    this.#poller.close()
    this.#fds.close()
    closeFd(this.#fd)
  }

  /** Ends the connection for a reason that is not the peer's, and tells its owner. */
  fail(error: VhostUserError): void {
    this.#end(error)
  }

  /** Lets the process end although the connection is open. */
  unref(): void {
    this.#poller.unref()
  }

  #readable(events: number): void {
    try {
      for (let i = 0; i < MESSAGES_PER_TURN && !this.#closed && !this.#busy; i++) {
        if (!this.#receiveOne()) break
      }
      if (!this.#closed && (events & POLL_ERROR) !== 0) {
        throw new VhostUserError("disconnected", "peer closed the connection")
      }
    } catch (error) {
      this.#end(asVhostUserError(error))
    }
    this.#watchPartial()
  }

  /** @returns false when there is nothing more to read now */
  #receiveOne(): boolean {
    if (!this.#header) {
      if (!this.#fill(VHOST_USER_HEADER_SIZE)) return false
      const header = decodeHeader(this.#buffer)
      this.#handler.header(header)
      if (header.size > VHOST_USER_MAX_PAYLOAD) {
        throw new VhostUserError("protocol", `payload of ${header.size} bytes`, { value: header.size })
      }
      this.#header = header
    }
    if (!this.#fill(VHOST_USER_HEADER_SIZE + this.#header.size)) return false
    this.#dispatch(this.#header)
    return true
  }

  /** Reads until `need` bytes are there. Fds belong to the first byte of a message. */
  #fill(need: number): boolean {
    while (this.#have < need) {
      const first = this.#have === 0
      const into = this.#buffer.subarray(this.#have, need)
      const received = receiveMessage(this.#fd, into, first ? VHOST_MEMORY_MAX_NREGIONS : 0)
      if (!received) return false
      if (first) this.#fds = new MessageFds(received.fds)
      if (received.length === 0) {
        if (!first) throw new VhostUserError("disconnected", "peer closed the connection inside a message")
        this.#end(undefined)
        return false
      }
      if (received.truncated) {
        throw new VhostUserError(
          "protocol",
          first ? "more than 8 fds in a message" : "fds in the middle of a message",
        )
      }
      this.#have += received.length
    }
    return true
  }

  #dispatch(header: MessageHeader): void {
    const fds = this.#fds
    this.#fds = new MessageFds([])
    this.#header = undefined
    this.#have = 0
    this.#stopWatching()
    const payload = this.#buffer.subarray(VHOST_USER_HEADER_SIZE, VHOST_USER_HEADER_SIZE + header.size)
    let pending: Promise<void> | void
    try {
      pending = this.#handler.message(header, payload, fds)
    } catch (error) {
      fds.close()
      throw error
    }
    if (pending) this.#hold(pending, fds)
    else fds.close()
  }

  /** Messages are handled in order: nothing is read until `pending` settles. */
  #hold(pending: Promise<void>, fds: MessageFds): void {
    this.#busy = true
    this.#poller.setInterest("none")
    pending
      .catch((error: unknown) => {
        this.#end(asVhostUserError(error))
      })
      .finally(() => {
        fds.close()
        this.#busy = false
        if (!this.#closed) this.#poller.setInterest("readable")
      })
  }

  /** A message that began must end in time; between messages a peer may be silent for ever. */
  #watchPartial(): void {
    const partial = !this.#closed && this.#have > 0
    if (partial && !this.#deadline) {
      this.#deadline = new Deadline(this.#timeoutMs, () => {
        this.#end(
          new VhostUserError("timeout", `message stopped after ${this.#have} bytes`, { value: this.#have }),
        )
      }).unref()
    } else if (!partial) {
      this.#stopWatching()
    }
  }

  #stopWatching(): void {
    this.#deadline?.cancel()
    this.#deadline = undefined
  }

  #end(error: VhostUserError | undefined): void {
    if (this.#closed) return
    this.close()
    this.#handler.ended(error)
  }
}

function asVhostUserError(error: unknown): VhostUserError {
  if (error instanceof VhostUserError) return error
  if (error instanceof SysError)
    return new VhostUserError("disconnected", "connection failed", { cause: error })
  return new VhostUserError("internal", "handling a message failed", { cause: error })
}
