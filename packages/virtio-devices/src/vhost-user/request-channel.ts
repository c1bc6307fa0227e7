import { fdOrigin } from "@ts-vmm/native"
import { Deadline } from "../deadline.js"
import { Connection, type MessageFds } from "./connection.js"
import { VHOST_USER_GET_INFLIGHT_FD } from "./defs.js"
import { VhostUserError } from "./errors.js"
import * as message from "./message.js"

/** An answer: its payload, and the memory that came with it, which is the receiver's to close. */
export interface Answer {
  readonly payload: Uint8Array
  readonly fd: number | undefined
}

/** An answer that is waited for. */
interface Waiting {
  readonly request: number
  readonly maxSize: number
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: VhostUserError) => void
}

/**
 * Requests and their answers on one connection, in order. Each answer must be to the oldest request, not larger
 * than that allows, and in time; anything else ends the connection and every request that waits.
 */
export class RequestChannel {
  readonly #connection: Connection
  readonly #timeoutMs: number
  readonly #onEnded: (error: VhostUserError | undefined) => void
  readonly #waiting: Waiting[] = []
  #deadline: Deadline | undefined
  #ended: VhostUserError | undefined

  /**
   * @param fd a connected stream socket, owned from here on
   * @param onEnded called once, unless `close` ended it; undefined when the back end closed in good order
   */
  constructor(fd: number, timeoutMs: number, onEnded: (error: VhostUserError | undefined) => void) {
    this.#timeoutMs = timeoutMs
    this.#onEnded = onEnded
    this.#connection = new Connection(
      fd,
      {
        header: header => this.#header(header),
        message: (_, payload, fds) => this.#answered(payload, fds),
        ended: error => this.#finish(error),
      },
      timeoutMs,
    )
  }

  get closed(): boolean {
    return this.#connection.closed
  }

  /** Sends a message that has no answer. @throws VhostUserError what ended the connection */
  send(bytes: Uint8Array, fds: readonly number[]): void {
    if (this.#ended) throw this.#ended
    this.#connection.send(bytes, fds)
  }

  /**
   * Sends a request and waits for its answer.
   *
   * @param maxSize largest payload of the answer
   * @throws VhostUserError `timeout`, `protocol`, `disconnected`, `closed`
   */
  async ask(
    request: number,
    payload: Uint8Array,
    fds: readonly number[],
    maxSize: number,
    flags = 0,
  ): Promise<Answer> {
    this.send(message.encodeMessage(request, flags, payload), fds)
    return new Promise((resolve, reject) => {
      this.#waiting.push({ request, maxSize, resolve, reject })
      if (this.#waiting.length === 1) this.#startTimer()
    })
  }

  /** Ends everything because of `error`, which whoever waits gets. */
  end(error: VhostUserError): void {
    this.#finish(error)
  }

  /** Ends everything in good order. Idempotent. */
  close(): void {
    this.#stop(new VhostUserError("closed", "front end was closed"))
  }

  #header(header: message.MessageHeader): void {
    const waiting = this.#waiting[0]
    if (!waiting) {
      throw new VhostUserError("protocol", `answer ${header.request} that nobody waits for`, {
        request: header.request,
      })
    }
    message.checkReply(header, waiting.request, waiting.maxSize)
  }

  #answered(payload: Uint8Array, fds: MessageFds): void {
    const waiting = this.#waiting.shift()!
    this.#startTimer()
    const wanted = waiting.request === VHOST_USER_GET_INFLIGHT_FD
    waiting.resolve({ payload: payload.slice(), fd: wanted ? takeMemory(fds) : undefined })
  }

  /** The oldest request waiting must be answered in time. */
  #startTimer(): void {
    this.#deadline?.cancel()
    const oldest = this.#waiting[0]
    if (!oldest) return
    this.#deadline = new Deadline(this.#timeoutMs, () => {
      const name = message.requestName(oldest.request)
      this.#finish(new VhostUserError("timeout", `no answer to ${name}`, { request: oldest.request }))
    })
  }

  #finish(error: VhostUserError | undefined): void {
    if (this.#ended) return
    this.#stop(error ?? new VhostUserError("disconnected", "back end closed the connection"))
    this.#onEnded(error)
  }

  #stop(error: VhostUserError): void {
    this.#ended ??= error
    this.#deadline?.cancel()
    this.#connection.close()
    for (const { reject } of this.#waiting.splice(0)) reject(error)
  }
}

/** @returns the first fd when it is memory; the others are closed with the message */
function takeMemory(fds: MessageFds): number | undefined {
  const fd = fds.borrowed[0]
  return fd !== undefined && fdOrigin(fd) === "memory" ? fds.take(0) : undefined
}
