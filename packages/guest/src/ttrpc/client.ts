import type { Duplex } from "node:stream"
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf"
import { GuestError } from "../errors.js"
import {
  ErrorInfoSchema,
  RequestSchema,
  type Response,
  ResponseSchema,
  type Status,
} from "../gen/ttrpc_pb.js"
import { encodeFrame, FRAME_DATA_MAX, type Frame, FrameDecoder, MESSAGE_TYPE } from "./frame.js"

const DEFAULT_TIMEOUT_MS = 30_000
const DEFAULT_MAX_IN_FLIGHT = 4096
const STREAM_ID_MAX = 0xffff_ffff
/** Answers to nothing are dropped; a flood of them is not put up with. */
const STRAY_FRAMES_MAX = 10_000
/** Calls given up whose late answers are still expected; beyond this the oldest are forgotten. */
const ABANDONED_MAX = 65_536
/** Longest error text taken over from the agent. */
const ERROR_TEXT_MAX = 4096

/** What every call takes. */
export interface CallOptions {
  /** How long to wait for the answer, in milliseconds; 0 waits for ever. Default: the client's. */
  timeoutMs?: number
  /** Ends the call; the agent is not told, its late answer is dropped. */
  signal?: AbortSignal | undefined
}

/** Settings of a {@link TtrpcClient}. */
export interface TtrpcClientOptions {
  /** Calls that may wait for an answer at the same time. Default 4096. */
  maxInFlight?: number
  /** How long a call that says nothing else waits for its answer, in milliseconds; 0 for ever. Default 30,000. */
  timeoutMs?: number
}

interface Call {
  method: string
  resolve(payload: Uint8Array): void
  reject(error: GuestError): void
}

/**
 * The client side of ttrpc over any Node duplex stream. The other side is not trusted: whatever it sends,
 * calls end with a {@link GuestError} and nothing throws out of the stream's events.
 *
 * @see containerd/ttrpc PROTOCOL.md
 * @example
 * ```ts
 * const client = new TtrpcClient(socket)
 * const version = await client.unary(Health.method.version, {}, { timeoutMs: 1000 })
 * client.close()
 * ```
 */
export class TtrpcClient {
  readonly #stream: Duplex
  readonly #maxInFlight: number
  readonly #timeoutMs: number
  readonly #calls = new Map<number, Call>()
  /** Stream ids of calls that timed out or were aborted: the agent may answer each of them once. */
  readonly #abandoned = new Set<number>()
  readonly #decoder: FrameDecoder
  #nextId = 1
  #strays = 0
  #failure: GuestError | undefined
  readonly #closed: Promise<GuestError>
  #markClosed!: (reason: GuestError) => void

  constructor(stream: Duplex, options: TtrpcClientOptions = {}) {
    this.#stream = stream
    this.#maxInFlight = options.maxInFlight ?? DEFAULT_MAX_IN_FLIGHT
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS
    this.#closed = new Promise(resolve => {
      this.#markClosed = resolve
    })
    this.#decoder = new FrameDecoder({
      frame: frame => this.#onFrame(frame),
      oversized: (id, type, length) => this.#onOversized(id, type, length),
      broken: reason => this.#fail(new GuestError("protocol", reason)),
    })
    stream.on("data", (chunk: Uint8Array) => this.#decoder.push(chunk))
    stream.on("error", cause =>
      this.#fail(new GuestError("closed", "connection to the agent failed", { cause })),
    )
    stream.on("end", () => this.#fail(new GuestError("closed", "the agent ended the connection")))
    stream.on("close", () => this.#fail(new GuestError("closed", "connection to the agent is closed")))
  }

  /** Resolves, never rejects, with the reason when the connection is over. */
  get closed(): Promise<GuestError> {
    return this.#closed
  }

  /** Calls waiting for an answer. */
  get inFlight(): number {
    return this.#calls.size
  }

  /** Frames that answered nothing: an agent that makes things up. Late answers do not count. */
  get strayFrames(): number {
    return this.#strays
  }

  /**
   * One typed call.
   *
   * @param method a unary method of a generated service description
   * @throws GuestError "timeout" | "aborted" | "closed" | "protocol" | "frame-too-large" | "bad-reply" | "rpc" |
   * "exec-not-found" | "exec-not-executable" | "invalid-argument"
   */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const payload = toBinary(method.input, create(method.input, request))
    const reply = await this.call(method.parent.typeName, method.name, payload, options)
    try {
      return fromBinary(method.output, reply)
    } catch (cause) {
      const name = `${method.parent.typeName}/${method.name}`
      throw new GuestError("bad-reply", `reply to ${name} does not decode`, { method: name, cause })
    }
  }

  /** One call with encoded messages. Throws like {@link TtrpcClient.unary}. */
  call(service: string, method: string, payload: Uint8Array, options: CallOptions = {}): Promise<Uint8Array> {
    const name = `${service}/${method}`
    const { signal, timeoutMs = this.#timeoutMs } = options
    const refused = this.#refusal(name, signal)
    if (refused) return Promise.reject(refused)
    const id = this.#nextId
    const request = create(RequestSchema, {
      service,
      method,
      payload,
      timeoutNano: BigInt(Math.ceil(timeoutMs)) * 1_000_000n,
    })
    const data = toBinary(RequestSchema, request)
    if (data.length > FRAME_DATA_MAX) {
      const text = `request to ${name} has ${data.length} bytes, at most ${FRAME_DATA_MAX} can be sent`
      return Promise.reject(new GuestError("frame-too-large", text, { method: name }))
    }
    this.#nextId += 2
    const answer = this.#await(id, name, timeoutMs, signal)
    this.#stream.write(encodeFrame(id, MESSAGE_TYPE.request, 0, data))
    return answer
  }

  /** Ends the connection; calls still waiting fail with "closed". */
  close(): void {
    this.#fail(new GuestError("closed", "connection to the agent was closed here"))
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #refusal(method: string, signal: AbortSignal | undefined): GuestError | undefined {
    if (this.#failure)
      return new GuestError("closed", this.#failure.message, { method, cause: this.#failure })
    if (signal?.aborted) return aborted(method, signal)
    if (this.#calls.size >= this.#maxInFlight) {
      return new GuestError("invalid-argument", `${this.#maxInFlight} calls are waiting already`, { method })
    }
    if (this.#nextId > STREAM_ID_MAX) return new GuestError("closed", "stream ids are used up", { method })
    return undefined
  }

  #await(
    id: number,
    method: string,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const giveUp = (error: GuestError) =>
        settle(() => {
          this.#abandon(id)
          reject(error)
        })
      const onAbort = () => giveUp(aborted(method, signal!))
      const timer =
        timeoutMs > 0
          ? setTimeout(() => giveUp(timedOut(method, timeoutMs)), Math.min(timeoutMs, 2 ** 31 - 1))
          : undefined
      const settle = (how: () => void) => {
        clearTimeout(timer)
        signal?.removeEventListener("abort", onAbort)
        this.#calls.delete(id)
        how()
      }
      signal?.addEventListener("abort", onAbort, { once: true })
      this.#calls.set(id, {
        method,
        resolve: payload => settle(() => resolve(payload)),
        reject: error => settle(() => reject(error)),
      })
    })
  }

  #onFrame(frame: Frame): void {
    if (this.#failure) return
    if (frame.type !== MESSAGE_TYPE.response) {
      this.#fail(new GuestError("protocol", `frame type ${frame.type} on a unary stream`))
      return
    }
    const call = this.#callFor(frame.streamId)
    if (!call) return
    let response: Response
    try {
      response = fromBinary(ResponseSchema, frame.data)
    } catch (cause) {
      const text = `response to ${call.method} does not decode`
      call.reject(new GuestError("bad-reply", text, { method: call.method, cause }))
      return
    }
    if (response.status && response.status.code !== 0)
      call.reject(errorFromStatus(call.method, response.status))
    else call.resolve(response.payload)
  }

  #onOversized(streamId: number, type: number, length: number): void {
    if (type !== MESSAGE_TYPE.response) {
      this.#fail(new GuestError("protocol", `frame type ${type} on a unary stream`))
      return
    }
    const call = this.#callFor(streamId)
    call?.reject(
      new GuestError("frame-too-large", `reply to ${call.method} has ${length} bytes`, {
        method: call.method,
      }),
    )
  }

  #callFor(streamId: number): Call | undefined {
    if (streamId % 2 === 0 || streamId >= this.#nextId) {
      this.#fail(new GuestError("protocol", `answer on stream ${streamId}, which was never opened`))
      return undefined
    }
    const call = this.#calls.get(streamId)
    if (!call && this.#abandoned.delete(streamId)) return undefined
    if (!call && ++this.#strays > STRAY_FRAMES_MAX) {
      this.#fail(new GuestError("protocol", `more than ${STRAY_FRAMES_MAX} answers to nothing`))
    }
    return call
  }

  #abandon(streamId: number): void {
    this.#abandoned.add(streamId)
    if (this.#abandoned.size <= ABANDONED_MAX) return
    for (const oldest of this.#abandoned) {
      this.#abandoned.delete(oldest)
      return
    }
  }

  #fail(reason: GuestError): void {
    if (this.#failure) return
    this.#failure = reason
    for (const call of [...this.#calls.values()]) {
      call.reject(new GuestError(reason.code, reason.message, { method: call.method, cause: reason }))
    }
    this.#stream.destroy()
    this.#markClosed(reason)
  }
}

function aborted(method: string, signal: AbortSignal): GuestError {
  return new GuestError("aborted", `call to ${method} was aborted`, { method, cause: signal.reason })
}

function timedOut(method: string, timeoutMs: number): GuestError {
  return new GuestError("timeout", `no answer to ${method} within ${timeoutMs} ms`, { method })
}

function errorFromStatus(method: string, status: Status): GuestError {
  const text = status.message.slice(0, ERROR_TEXT_MAX) || `${method} failed with status ${status.code}`
  const details = { method, status: status.code }
  switch (execFailure(status)) {
    case undefined:
      return new GuestError("rpc", text, details)
    case "ENOENT":
      return new GuestError("exec-not-found", text, { ...details, exitCode: 127 })
    default:
      return new GuestError("exec-not-executable", text, { ...details, exitCode: 126 })
  }
}

/** The errno name of an execve(2) that failed, when that is what the status reports. */
function execFailure(status: Status): string | undefined {
  const detail = status.details.find(d => d.typeUrl === "type.googleapis.com/google.rpc.ErrorInfo")
  if (!detail) return undefined
  try {
    const info = fromBinary(ErrorInfoSchema, detail.value)
    return info.domain === "exec" ? info.reason : undefined
  } catch {
    return undefined
  }
}
