import { randomInt } from "node:crypto"
import { PassThrough, type Readable, type Writable } from "node:stream"
import { type VsockDevice, VsockError, type VsockListener, type VsockStream } from "@ts-vmm/vsock"
import { SandboxError } from "../errors.js"

/** Host ports from here on are ours to give out; below are well-known services. */
const FIRST_STDIO_PORT = 0x4000_0000
const LAST_STDIO_PORT = 0x7fff_ffff

/** Which of a process's streams are wanted. */
export interface StdioChoice {
  readonly stdin: boolean
  readonly tty: boolean
}

/** Host ports for the agent's request; 0 means none. */
export interface StdioPorts {
  readonly stdinPort: number
  readonly stdoutPort: number
  readonly stderrPort: number
}

/** The connected streams of one process. Those that were not wanted are at their end already. */
export interface ProcessStreams {
  readonly stdin: Writable
  readonly stdout: Readable
  readonly stderr: Readable
}

/**
 * The host's half of one process's stdio: one vsock port a stream, to which the agent connects before it
 * answers the request that makes the process. Bytes never pass through the RPC connection. With a terminal
 * one stream carries both ways.
 */
export class StdioListeners {
  readonly ports: StdioPorts
  readonly #tty: boolean
  readonly #channels: { readonly stdin?: Channel; readonly stdout: Channel; readonly stderr?: Channel }

  constructor(vsock: VsockDevice, choice: StdioChoice) {
    this.#tty = choice.tty
    this.#channels = {
      stdout: new Channel(vsock),
      ...(choice.stdin && !choice.tty ? { stdin: new Channel(vsock) } : {}),
      ...(choice.tty ? {} : { stderr: new Channel(vsock) }),
    }
    const { stdin, stdout, stderr } = this.#channels
    this.ports = { stdinPort: stdin?.port ?? 0, stdoutPort: stdout.port, stderrPort: stderr?.port ?? 0 }
  }

  /**
   * The streams, once the agent has answered.
   *
   * @throws SandboxError `agent-failed` when it answered without having connected
   */
  connected(): ProcessStreams {
    const { stdin, stdout, stderr } = this.#channels
    const output = stdout.take()
    return {
      stdin: this.#tty ? output : (stdin?.take() ?? closedWritable()),
      stdout: output,
      stderr: stderr?.take() ?? endedReadable(),
    }
  }

  /** Gives up the ports and ends the connections: there is no process. */
  destroy(): void {
    for (const channel of Object.values(this.#channels)) channel.destroy()
  }
}

/** One port that takes one connection. */
class Channel {
  readonly #listener: VsockListener
  #stream: VsockStream | undefined

  constructor(vsock: VsockDevice) {
    this.#listener = listenOnRandomPort(vsock, stream => {
      this.#listener.close()
      this.#stream = stream
      // Whoever reads the stream learns of its end; a reset by a guest that ended is no error of the host's.
      stream.on("error", () => undefined)
      // Both ends have to close it, or the agent keeps it for as long as the sandbox lives.
      stream.once("end", () => stream.end())
    })
  }

  get port(): number {
    return this.#listener.port
  }

  take(): VsockStream {
    if (this.#stream) return this.#stream
    throw new SandboxError("agent-failed", "the agent made a process without connecting its stdio")
  }

  destroy(): void {
    this.#listener.close()
    this.#stream?.destroy()
  }
}

/** Not to be guessed, so that a program in the guest cannot take another's stream. */
export function listenOnRandomPort(
  vsock: VsockDevice,
  onConnection: (stream: VsockStream) => void,
): VsockListener {
  for (;;) {
    try {
      return vsock.listen(randomInt(FIRST_STDIO_PORT, LAST_STDIO_PORT), onConnection)
    } catch (error) {
      if (!(error instanceof VsockError) || error.code !== "address-in-use") throw error
    }
  }
}

function endedReadable(): Readable {
  return new PassThrough().end()
}

function closedWritable(): Writable {
  const stream = new PassThrough()
  stream.resume()
  stream.end()
  return stream
}
