import { pipeline } from "node:stream/promises"
import type { VsockDevice, VsockStream } from "@ts-vmm/vsock"
import { WatchedSource } from "../copy/watched-source.js"
import { type WaitOptions, withDeadline } from "../deadline.js"
import { SandboxError } from "../errors.js"
import { fromGuestError } from "../guest-errors.js"
import { listenOnRandomPort } from "./stdio.js"

/** The agent answers right after the end of what it sends. */
const ANSWER_TIMEOUT_MS = 30_000

/** Asks the agent to connect to a port of the host; settled when it is done with the stream. */
export type StreamCall = (port: number) => Promise<void>

/**
 * What the agent sends in answer to a call. The end of the stream is only told once the agent has said that it was
 * whole; whoever stops reading before that ends the agent's work.
 *
 * @throws SandboxError `agent-failed`, `guest-died`, `timeout`, `aborted`
 */
export async function* streamFromAgent(vsock: VsockDevice, call: StreamCall): AsyncGenerator<Buffer> {
  const connection = new Connection(vsock)
  const answered = call(connection.port)
  try {
    const stream = await connection.accepted(answered)
    for await (const chunk of stream) yield chunk as Buffer
    stream.end()
    await withDeadline(answered, "the agent's answer", { timeoutMs: ANSWER_TIMEOUT_MS })
  } catch (error) {
    throw await reason(error, answered)
  } finally {
    connection.close()
    answered.catch(() => undefined) // whoever stops early has its own reason
  }
}

/**
 * Sends the agent what it reads in a call. Done when the agent is; what cannot be read here ends its work.
 *
 * @returns how many bytes
 * @throws SandboxError `agent-failed`, `guest-died`, `timeout`, `aborted`, and what `source` throws
 */
export async function streamToAgent(
  vsock: VsockDevice,
  call: StreamCall,
  source: AsyncIterable<Uint8Array>,
): Promise<number> {
  const connection = new Connection(vsock)
  const answered = call(connection.port)
  const counted = new WatchedSource(source)
  try {
    const stream = await connection.accepted(answered)
    stream.resume() // nothing is said there
    const sent = pipeline(counted, stream)
    // A source that never goes on keeps `sent` waiting, but not the call's end.
    await Promise.race([sent, answered.then(() => sent)])
    await answered
    return counted.bytes
  } catch (error) {
    if (counted.failure) {
      connection.close()
      await answered.catch(() => undefined)
      throw counted.failure.error
    }
    throw await reason(error, answered)
  } finally {
    connection.close()
  }
}

/** A stream that breaks is the consequence of something: the agent's answer says of what. */
async function reason(error: unknown, answered: Promise<void>): Promise<unknown> {
  const wait: WaitOptions = { timeoutMs: ANSWER_TIMEOUT_MS }
  const cause = await withDeadline(answered, "the agent's answer", wait).then(
    () => new SandboxError("agent-failed", "the agent's stream broke off", { cause: error }),
    failure => failure,
  )
  return fromGuestError(cause)
}

/** One port that takes one connection. */
class Connection {
  readonly port: number
  readonly #close: () => void
  #stream: VsockStream | undefined
  #arrived: (() => void) | undefined

  constructor(vsock: VsockDevice) {
    const listener = listenOnRandomPort(vsock, stream => {
      listener.close()
      this.#stream = stream
      stream.on("error", () => undefined) // whoever reads it learns of it
      this.#arrived?.()
    })
    this.port = listener.port
    this.#close = () => listener.close()
  }

  /** The agent connects before it answers. */
  async accepted(answered: Promise<void>): Promise<VsockStream> {
    const arrived = new Promise<void>(resolve => {
      this.#arrived = resolve
    })
    if (!this.#stream) await Promise.race([arrived, answered])
    if (!this.#stream) throw new SandboxError("agent-failed", "the agent answered without having connected")
    // A call that was given up ends the stream, and with it the agent's work.
    const stream = this.#stream
    answered.catch(() => stream.destroy())
    return stream
  }

  close(): void {
    this.#close()
    this.#stream?.destroy()
  }
}
