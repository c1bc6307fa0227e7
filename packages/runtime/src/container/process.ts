import { constants } from "node:os"
import type { Readable, Writable } from "node:stream"
import type { AgentClient, ProcessEnd } from "@ts-vmm/guest"
import { type WaitOptions, withDeadline } from "../deadline.js"
import { SandboxError } from "../errors.js"
import { fromGuestError } from "../guest-errors.js"
import type { TerminalSize } from "./spec.js"
import type { ProcessStreams } from "./stdio.js"

/** How a program ended. */
export interface ProcessExit {
  /** As a shell reports it: the program's own code, or 128 + n for signal n. */
  readonly exitCode: number
  /** Name of the signal that ended it, when its code says so. */
  readonly signal: NodeJS.Signals | undefined
  /** From its start to its end, in milliseconds. */
  readonly durationMs: number
}

/** A piece of output, or the end. */
export type ProcessEvent =
  | { readonly kind: "stdout" | "stderr"; readonly data: Buffer }
  | ({ readonly kind: "exit" } & ProcessExit)

/** Where a process is in the guest. */
export interface ProcessAddress {
  readonly containerId: string
  readonly execId: string
}

/** How long a program's children may go on with its output after its end, in milliseconds. */
const CHILDREN_GRACE_MS = 1_000

/**
 * A program in a container. Its streams are there from its first byte on; output nobody reads holds the
 * program back, as a full pipe does.
 *
 * @example
 * ```ts
 * const process = await sandbox.spawn("python3", ["-u", "agent.py"])
 * for await (const event of process) {
 *   if (event.kind === "stdout") console.log(event.data.toString())
 * }
 * ```
 */
export class SandboxProcess {
  readonly stdin: Writable
  readonly stdout: Readable
  readonly stderr: Readable
  readonly #agent: AgentClient
  readonly #address: ProcessAddress
  readonly #ended: Promise<ProcessEnd>
  readonly #exit: Promise<ProcessExit>

  /** Made by `Container`; `ended` resolves with the agent's word on how the program ended. */
  constructor(
    agent: AgentClient,
    address: ProcessAddress,
    streams: ProcessStreams,
    ended: Promise<ProcessEnd>,
  ) {
    this.#agent = agent
    this.#address = address
    this.stdin = streams.stdin
    this.stdout = streams.stdout
    this.stderr = streams.stderr
    const startedAt = performance.now()
    this.#ended = ended.catch(error => {
      throw fromGuestError(error)
    })
    this.#exit = this.#ended.then(({ exitCode }) => ({
      exitCode,
      signal: signalName(exitCode),
      durationMs: performance.now() - startedAt,
    }))
    // Whoever waits gets the error; nobody has to.
    this.#exit.catch(() => undefined)
  }

  /** Name of this process among those of its container; the container's id for its first one. */
  get id(): string {
    return this.#address.execId
  }

  /**
   * Waits for the program's end. Its output may still be buffered in the streams.
   *
   * @throws SandboxError `guest-died`, `timeout`, `aborted`
   */
  wait(options: WaitOptions = {}): Promise<ProcessExit> {
    return withDeadline(this.#exit, "the program", options)
  }

  /** Sends a signal, SIGTERM by default. A program that has ended already is no error. */
  async kill(signal: NodeJS.Signals | number = "SIGTERM", options: WaitOptions = {}): Promise<void> {
    const number = signalNumber(signal)
    await withDeadline(
      this.#agent.signalProcess({ ...this.#address, signal: number }, options),
      "the signal",
      options,
    ).catch(error => {
      throw fromGuestError(error)
    })
  }

  /** Tells the program's terminal its new size. Only for processes with `tty`. */
  async resize(size: TerminalSize, options: WaitOptions = {}): Promise<void> {
    await this.#agent
      .ttyWinResize({ ...this.#address, row: size.rows, column: size.columns }, options)
      .catch(error => {
        throw fromGuestError(error)
      })
  }

  /** Output as it comes, then one `exit`. */
  async *[Symbol.asyncIterator](): AsyncGenerator<ProcessEvent, void, undefined> {
    const events = new EventQueue<ProcessEvent>()
    const pump = (kind: "stdout" | "stderr", stream: Readable) =>
      readToEnd(stream, data => events.put({ kind, data }))
    const pumps = Promise.all([pump("stdout", this.stdout), pump("stderr", this.stderr)])
    pumps
      .then(() => this.#exit)
      .then(exit => events.put({ kind: "exit", ...exit }))
      .then(
        () => events.end(),
        error => events.fail(error),
      )
    yield* events
  }

  /**
   * The end, and all output up to it. Children of the program that keep its output open are waited for a short time
   * only.
   *
   * @param maxBytes most bytes kept of each stream
   * @throws SandboxError `output-too-large`, and what {@link SandboxProcess.wait} throws
   */
  async collect(
    maxBytes: number,
    options: WaitOptions = {},
  ): Promise<ProcessExit & { stdout: Buffer; stderr: Buffer }> {
    const stdout = new OutputBuffer(maxBytes)
    const stderr = new OutputBuffer(maxBytes)
    const output = Promise.all([
      readToEnd(this.stdout, data => stdout.push(data)),
      readToEnd(this.stderr, data => stderr.push(data)),
    ])
    const own = this.#ended.then(end =>
      Promise.all([stdout.has(end.stdoutBytes), stderr.has(end.stderrBytes)]),
    )
    const whole = Promise.race([output, own]).then(() => this.#exit)
    const exit = await withDeadline(whole, "the program", options)
    await withDeadline(output, "more output", { timeoutMs: CHILDREN_GRACE_MS }).catch(ignoreTimeout)
    return { ...exit, stdout: stdout.bytes(), stderr: stderr.bytes() }
  }
}

/** Hands every chunk to `take`. A stream that breaks has ended: how the program fared is told by its exit. */
async function readToEnd(stream: Readable, take: (data: Buffer) => Promise<void> | void): Promise<void> {
  const chunks = stream[Symbol.asyncIterator]()
  for (;;) {
    const next = await chunks.next().catch(() => ({ done: true as const, value: undefined }))
    if (next.done) return
    await take(next.value as Buffer)
  }
}

/** Output kept in memory, up to a limit. */
class OutputBuffer {
  readonly #max: number
  readonly #chunks: Buffer[] = []
  #length = 0
  #awaited: { readonly length: number; readonly reached: () => void } | undefined

  constructor(max: number) {
    this.#max = max
  }

  push(chunk: Buffer): void {
    this.#length += chunk.length
    if (this.#length > this.#max) {
      throw new SandboxError(
        "output-too-large",
        `the program wrote more than ${this.#max} bytes: use spawn to stream its output`,
      )
    }
    this.#chunks.push(chunk)
    if (this.#awaited && this.#length >= this.#awaited.length) this.#awaited.reached()
  }

  /** Resolves once it holds so many bytes. Asked once. */
  has(length: number): Promise<void> {
    return new Promise(reached => {
      if (this.#length >= length) reached()
      else this.#awaited = { length, reached }
    })
  }

  bytes(): Buffer {
    return Buffer.concat(this.#chunks)
  }
}

function ignoreTimeout(error: unknown): void {
  if (!(error instanceof SandboxError) || error.code !== "timeout") throw error
}

/** Hands events from two pumps to one reader, one at a time, so that a slow reader slows the program. */
class EventQueue<T> {
  #items: { value: T; taken: () => void }[] = []
  #wake: () => void = () => undefined
  #ended = false
  #error: unknown

  put(value: T): Promise<void> {
    return new Promise(taken => {
      this.#items.push({ value, taken })
      this.#wake()
    })
  }

  end(): void {
    this.#ended = true
    this.#wake()
  }

  fail(error: unknown): void {
    this.#error = error
    this.end()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for (;;) {
      const item = this.#items.shift()
      if (item) {
        item.taken()
        yield item.value
      } else if (this.#ended) {
        if (this.#error) throw this.#error
        return
      } else {
        await new Promise<void>(resolve => {
          this.#wake = resolve
        })
      }
    }
  }
}

function signalName(status: number): NodeJS.Signals | undefined {
  if (status <= 128) return undefined
  const found = Object.entries(constants.signals).find(([, number]) => number === status - 128)
  return found?.[0] as NodeJS.Signals | undefined
}

/** @throws SandboxError `invalid-argument` for a name or number that is no signal */
export function signalNumber(signal: string | number): number {
  const text = String(signal).toUpperCase()
  const name = text.startsWith("SIG") ? text : `SIG${text}`
  const number = /^\d+$/.test(text) ? Number(text) : constants.signals[name as NodeJS.Signals]
  if (number === undefined || number < 1 || number > 64)
    throw new SandboxError("invalid-argument", `invalid signal: ${signal}`)
  return number
}
