import type { Connection } from "./connection.js"
import { VsockError } from "./errors.js"
import type { Acceptor, Muxer } from "./muxer.js"
import { VsockStream } from "./streams.js"

/** Takes a connection the guest opened. */
export type OnConnection = (stream: VsockStream) => void

/**
 * A host port that guests can connect to. Give `VsockDevice.listen` a callback, or iterate:
 *
 * @example
 * ```ts
 * using listener = vsock.listen(1024)
 * for await (const stream of listener) pipeline(stream, stream).catch(report)
 * ```
 */
export class VsockListener implements Acceptor, AsyncIterable<VsockStream> {
  /** The host port. */
  readonly port: number
  readonly #muxer: Muxer
  readonly #backlog: number
  readonly #onConnection: OnConnection | undefined
  #waiting: VsockStream[] = []
  #wanted: ((result: IteratorResult<VsockStream>) => void)[] = []
  #closed = false

  /** Made by `VsockDevice.listen`. Errors: `address-in-use`. */
  constructor(muxer: Muxer, port: number, backlog: number, onConnection?: OnConnection) {
    this.#muxer = muxer
    this.port = port
    this.#backlog = backlog
    this.#onConnection = onConnection
    muxer.bind(port, this)
  }

  /** Called by the muxer for each request of the guest. */
  incoming(connection: Connection): void {
    // With a callback nothing waits longer than the running turn, and the device's limit is enough.
    if (this.#onConnection === undefined && this.#waiting.length >= this.#backlog) {
      connection.reset()
      return
    }
    connection.accept()
    const stream = new VsockStream(connection, this.#muxer.guestCid)
    // A guest that gives up while nobody has the stream yet must not raise an unhandled error.
    stream.on("error", ignoreError)
    stream.once("close", () => this.#forget(stream))
    if (this.#waiting.push(stream) === 1) queueMicrotask(() => this.#handOver())
  }

  /** Refuses new connections, and resets those nobody has taken. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#muxer.unbind(this.port)
    for (const stream of this.#waiting.splice(0)) stream.destroy()
    for (const resolve of this.#wanted.splice(0)) resolve({ done: true, value: undefined })
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** Connections as they come. Ends when the listener is closed. */
  [Symbol.asyncIterator](): AsyncIterator<VsockStream> {
    if (this.#onConnection !== undefined)
      throw new VsockError("invalid-argument", this.port, "listener has a callback")
    return { next: () => this.#next() }
  }

  #forget(stream: VsockStream): void {
    const at = this.#waiting.indexOf(stream)
    if (at >= 0) this.#waiting.splice(at, 1)
  }

  #take(): VsockStream | undefined {
    const stream = this.#waiting.shift()
    stream?.off("error", ignoreError)
    return stream
  }

  #next(): Promise<IteratorResult<VsockStream>> {
    const stream = this.#take()
    if (stream !== undefined) return Promise.resolve({ done: false, value: stream })
    if (this.#closed) return Promise.resolve({ done: true, value: undefined })
    return new Promise(resolve => this.#wanted.push(resolve))
  }

  #handOver(): void {
    if (this.#onConnection !== undefined) {
      try {
        for (let stream = this.#take(); stream !== undefined; stream = this.#take()) {
          this.#onConnection(stream)
        }
      } finally {
        // A callback that threw must not keep the others waiting.
        if (this.#waiting.length > 0) queueMicrotask(() => this.#handOver())
      }
      return
    }
    while (this.#wanted.length > 0 && this.#waiting.length > 0) {
      this.#wanted.shift()!({ done: false, value: this.#take()! })
    }
  }
}

function ignoreError(): void {
  // The stream is gone with it; nobody had it.
}
