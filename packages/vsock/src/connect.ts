import { DEFAULT_CONNECT_TIMEOUT_MS } from "./defs.js"
import { VsockError } from "./errors.js"
import type { Muxer } from "./muxer.js"
import { VsockStream } from "./streams.js"

/** How long to try. */
export interface ConnectOptions {
  /** Gives up with `aborted`. */
  readonly signal?: AbortSignal
  /** Gives up with `timeout` after this many milliseconds; default 10,000. */
  readonly timeoutMs?: number
}

/** Opens a connection to a guest port; see `VsockDevice.connect`. */
export function connect(muxer: Muxer, port: number, options: ConnectOptions): Promise<VsockStream> {
  const { signal, timeoutMs = DEFAULT_CONNECT_TIMEOUT_MS } = options
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(aborted(port, signal))
    const stream = new VsockStream(muxer.connect(port), muxer.guestCid, () => {
      settle()
      resolve(stream)
    })
    const onFailure = (error: Error) => {
      settle()
      reject(error)
    }
    const onAbort = () => stream.destroy(aborted(port, signal))
    const timer = setTimeout(() => stream.destroy(new VsockError("timeout", port)), timeoutMs)
    const settle = () => {
      clearTimeout(timer)
      signal?.removeEventListener("abort", onAbort)
      stream.off("error", onFailure)
    }
    stream.once("error", onFailure)
    signal?.addEventListener("abort", onAbort, { once: true })
  })
}

function aborted(port: number, signal: AbortSignal | undefined): VsockError {
  return new VsockError("aborted", port, undefined, { cause: signal?.reason })
}
