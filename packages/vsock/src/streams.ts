import { Duplex } from "node:stream"
import type { Connection } from "./connection.js"
import {
  CONNECTION_ABANDONED,
  CONNECTION_CLOSED,
  CONNECTION_OPEN,
  CONNECTION_SENT,
} from "./connection-roles.js"
import { VIRTIO_VSOCK_SHUTDOWN_SEND } from "./defs.js"
import { VsockError, type VsockErrorCode } from "./errors.js"

/** Bytes a stream buffers before it holds its producer back; what one vsock packet carries at most. */
const HIGH_WATER_MARK = 64 * 1024

type Done = (error?: Error | null) => void

/** Takes a chunk on loan, see `VsockStream.lendTo`. */
export type Borrower = (chunk: Buffer, done: () => void) => void

/**
 * One vsock connection as an ordinary Node stream.
 *
 * `end()` shuts the way to the guest down and leaves the other one open (`allowHalfOpen`); the guest's end
 * of stream shows as `"end"`. When both ways are over the stream closes itself; `destroy()` before that
 * sends an RST. Bytes that arrived are delivered before any end or error that came after them; what is
 * written meanwhile is lost.
 *
 * Back-pressure is the protocol's own: a write is done when its last byte lies in guest memory, and the
 * guest's credit grows by what was really read from the stream.
 *
 * Errors: `VsockError` `connection-reset`, `broken-pipe`, `device-reset`, `protocol-violation`; `closed` to
 * writes that were under way when the stream or the device was closed. A guest can cause them at any time, so
 * every stream needs an `"error"` listener, or a `pipeline`.
 *
 * @example
 * ```ts
 * const stream = await vsock.connect(1024)
 * stream.end("hello\n")
 * for await (const chunk of stream) process.stdout.write(chunk)
 * ```
 */
export class VsockStream extends Duplex {
  /** Context id of the guest. */
  readonly remoteCid: number
  /** Port in the guest. */
  readonly remotePort: number
  /** Port on the host. */
  readonly localPort: number
  readonly #connection: Connection
  #wanted = false
  #endPushed = false
  #written: Done | undefined
  #opened: (() => void) | undefined
  #borrower: Borrower | undefined
  #lent: Buffer | undefined
  #lending = false
  #failure: VsockErrorCode | undefined

  /** Made by `VsockDevice.connect` and by listeners. `onOpen` is called once the guest has answered. */
  constructor(connection: Connection, remoteCid: number, onOpen?: () => void) {
    super({ highWaterMark: HIGH_WATER_MARK })
    this.remoteCid = remoteCid
    this.remotePort = connection.guestPort
    this.localPort = connection.hostPort
    this.#connection = connection
    this.#opened = onOpen
    connection.consumer = { onEvents: events => this.#onEvents(events) }
  }

  /** Takes bytes out of the stream's buffer, and with that gives the guest credit. */
  // biome-ignore lint/suspicious/noExplicitAny: the type of Readable.read
  override read(size?: number): any {
    const chunk = super.read(size)
    if (chunk !== null) this.#account()
    return chunk
  }

  /**
   * Reads with recycled memory, twice as fast as the stream's own way: `borrower` gets one chunk at a time,
   * and the next one after it called `done`, when the chunk's memory is filled anew. Instead of `"data"`,
   * `read` and pipes; `"end"`, `"error"` and `"close"` come as ever. Errors: `invalid-argument` when reading
   * has begun in another way.
   *
   * @example
   * ```ts
   * stream.lendTo((chunk, done) => fs.write(fd, chunk, done))
   * ```
   */
  lendTo(borrower: Borrower): void {
    if (this.#borrower !== undefined || this.#wanted) {
      throw new VsockError("invalid-argument", this.remotePort, "stream is being read already")
    }
    this.#borrower = borrower
    this.#deliver()
  }

  override _read(): void {
    if (this.#borrower !== undefined) return
    this.#wanted = true
    this.#deliver()
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: Done): void {
    this.#written = done
    this.#connection.write(chunk)
    this.#afterWrite()
  }

  override _writev(parts: { chunk: Buffer }[], done: Done): void {
    this.#written = done
    for (const { chunk } of parts) this.#connection.write(chunk)
    this.#afterWrite()
  }

  override _final(done: Done): void {
    this.#connection.shutdownSend()
    done()
  }

  override _destroy(error: Error | null, done: Done): void {
    // Both ways over is an orderly end; anything less is an abort.
    const orderly = error === null && this.writableFinished && this.readableEnded
    if (orderly) this.#connection.close()
    else this.#connection.reset()
    this.#connection.incoming.clear()
    this.#connection.readUpTo(0)
    // Orderly as it looks, something written may have gone nowhere.
    done(orderly && this.#failure !== undefined ? this.#error(this.#failure) : error)
    this.#finishWrite(error ?? this.#error("closed"))
  }

  #error(code: VsockErrorCode): VsockError {
    return new VsockError(code, this.remotePort)
  }

  #onEvents(events: number): void {
    if (events & CONNECTION_ABANDONED) {
      this.destroy(new VsockError("connection-reset", this.remotePort, "unread bytes had to make room"))
      return
    }
    if (events & CONNECTION_OPEN) this.#open()
    if (events & CONNECTION_SENT && this.#connection.outgoing.length === 0) this.#finishWrite()
    this.#deliver()
    if (!this.#connection.writable && this.#written !== undefined) this.#fail("broken-pipe")
    if (events & CONNECTION_CLOSED) this.#close(this.#connection.closeReason)
  }

  #open(): void {
    this.#opened?.()
    this.#opened = undefined
  }

  #deliver(): void {
    if (this.#borrower !== undefined) this.#lend(this.#borrower)
    else this.#push()
    if (this.destroyed) return
    this.#account()
    if (this.#unread === this.readableLength && this.#connection.ended && this.#endIsOrderly())
      this.#pushEnd()
  }

  #push(): void {
    while (this.#wanted && !this.destroyed) {
      const chunk = this.#connection.incoming.take()
      if (chunk === undefined) return
      this.#wanted = this.push(chunk)
    }
  }

  #lend(borrower: Borrower): void {
    if (this.#lending) return
    this.#lending = true
    try {
      while (this.#lent === undefined && !this.destroyed) {
        const chunk = this.#connection.incoming.take()
        if (chunk === undefined) return
        this.#lent = chunk
        borrower(chunk, () => this.#takeBack(chunk))
      }
    } finally {
      this.#lending = false
    }
  }

  #takeBack(chunk: Buffer): void {
    if (this.#lent !== chunk) return
    this.#lent = undefined
    this.#connection.incoming.release(chunk)
    if (!this.#lending) this.#deliver()
  }

  /** A connection that broke before the guest's end of stream ends in an error, not in an end. */
  #endIsOrderly(): boolean {
    const shut = (this.#connection.peerShutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) !== 0
    return shut || this.#connection.closeReason === undefined
  }

  #pushEnd(): void {
    if (this.#endPushed) return
    this.#endPushed = true
    this.once("end", () => this.#atRest())
    this.push(null)
    // Lets "end" come also when nobody has asked for data and there is none.
    super.read(0)
  }

  /** Bytes that arrived and nobody is done with. */
  get #unread(): number {
    return this.#connection.incoming.length + this.readableLength + (this.#lent?.length ?? 0)
  }

  #account(): void {
    this.#connection.readUpTo(this.#unread)
    if (this.#failure !== undefined) this.#atRest()
  }

  /** Empty writes are done at once; others when the last byte has gone, see `CONNECTION_SENT`. */
  #afterWrite(): void {
    if (!this.#connection.writable) this.#fail("broken-pipe")
    else if (this.#connection.outgoing.length === 0) this.#finishWrite()
  }

  #finishWrite(error?: Error): void {
    const done = this.#written
    this.#written = undefined
    done?.(error)
  }

  #close(reason: VsockErrorCode | undefined): void {
    if (this.destroyed) return
    // Closed by this side, not by an event worth an error, except to who still waits for the connection.
    if (reason === "closed" && this.#opened === undefined) this.destroy()
    else if (!this.#endPushed && reason !== undefined) this.#fail(reason)
    else if (this.readableEnded) this.#atRest()
  }

  /** Ends in an error, once everything that arrived before has been read. */
  #fail(code: VsockErrorCode): void {
    this.#failure ??= code
    if (this.#isReadOut()) this.#atRest()
    // Until then writes go nowhere: to hold them up could hold up the reader that is waited for (an echo).
    else this.#finishWrite()
  }

  /** If nothing more can be read: carries out what waited for that. */
  #atRest(): void {
    if (this.destroyed || !this.#isReadOut()) return
    if (this.#failure !== undefined) {
      const failure = this.#error(this.#failure)
      // Not from inside `read`, whose caller has yet to see its chunk.
      process.nextTick(() => this.destroy(failure))
    } else if (this.#connection.state === "closed" && !this.writableEnded) this.end()
  }

  /** Nothing more is to be read; or somebody writes and nobody reads, and would wait for ever. */
  #isReadOut(): boolean {
    if (this.readableEnded) return true
    const isRead =
      this.readableFlowing !== null || this.listenerCount("readable") > 0 || this.#borrower !== undefined
    if (!isRead && this.#written !== undefined) return true
    return !this.#endPushed && this.#unread === 0
  }
}
