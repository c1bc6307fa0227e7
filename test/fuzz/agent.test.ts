import { ok, strictEqual } from "node:assert"
import { Duplex } from "node:stream"
import { setImmediate } from "node:timers/promises"
import { create, toBinary } from "@bufbuild/protobuf"
import {
  AgentClient,
  type CallOptions,
  encodeFrame,
  FRAME_DATA_MAX,
  GuestDetailsResponseSchema,
  GuestError,
  MESSAGE_TYPE,
  OOMEventSchema,
  type ProcessEnd,
  StatsContainerResponseSchema,
  WaitProcessResponseSchema,
} from "@ts-vmm/guest"
import { ResponseSchema } from "../../packages/guest/src/gen/ttrpc_pb.js"
import { fuzz } from "./harness.js"
import { join, mutate, type Random } from "./random.js"

/** Calls whose replies carry values, and what may be believed of them. */
const CALLS = ["wait", "stats", "details", "oom", "check", "start"] as const
type Call = (typeof CALLS)[number]
/** Stream 1 is an honest call's. */
const FIRST_STREAM = 3
/** Pieces that one frame arrives in at most. */
const MAX_CHUNKS = 500

/** What the agent does in turn. */
type Step =
  | { readonly do: "call"; readonly call: Call }
  | { readonly do: "send"; readonly bytes: Uint8Array }
  | { readonly do: "turn" | "abort" }

interface AgentCase {
  readonly steps: readonly Step[]
  /** Most bytes in one chunk of the stream. */
  readonly chunk: number
  readonly end: "end" | "error" | "close"
}

function generate(random: Random): AgentCase {
  const calls: Call[] = []
  const steps = random.list(random.between(2, 14), (): Step => {
    if (calls.length === 0 || random.oneIn(3)) {
      calls.push(random.pick(CALLS))
      return { do: "call", call: calls.at(-1)! }
    }
    if (random.oneIn(6)) return { do: random.oneIn(8) ? "abort" : "turn" }
    return { do: "send", bytes: reply(random, calls) }
  })
  return {
    steps,
    chunk: random.pick([1, 3, 10, 1000, 100_000]),
    end: random.pick(["end", "error", "close"] as const),
  }
}

/** A frame that answers one of `calls`, with damage at any level. */
function reply(random: Random, calls: readonly Call[]): Uint8Array {
  const index = random.below(calls.length)
  const call = calls[index]!
  let payload = random.oneIn(12)
    ? random.bytes(random.below(60))
    : payloadOf(random, random.oneIn(12) ? random.pick(CALLS) : call)
  if (random.oneIn(5)) payload = mutate(random, payload)
  let data = random.oneIn(8) ? nested(random) : response(random, payload)
  if (random.oneIn(6)) data = mutate(random, data)
  const stream = random.oneIn(12) ? random.edge() : FIRST_STREAM + 2 * index
  const type = random.oneIn(24) ? random.u32() & 0xff : MESSAGE_TYPE.response
  const frame = encodeFrame(stream, type, random.oneIn(12) ? random.u32() & 0xff : 0, data)
  return random.oneIn(8) ? damagedFrame(random, frame) : frame
}

function response(random: Random, payload: Uint8Array): Uint8Array {
  if (!random.oneIn(5)) return toBinary(ResponseSchema, create(ResponseSchema, { payload }))
  const code = random.oneIn(2) ? random.below(17) : random.u32() | 0
  const message = random.oneIn(8) ? "m".repeat(100_000) : "no such container"
  const typeUrl = random.oneIn(2) ? "type.googleapis.com/google.rpc.ErrorInfo" : "x"
  const details = random.list(random.below(3), () => ({ typeUrl, value: random.bytes(random.below(20)) }))
  return toBinary(ResponseSchema, create(ResponseSchema, { status: { code, message, details }, payload }))
}

function payloadOf(random: Random, call: Call): Uint8Array {
  const u64 = () => (random.oneIn(2) ? random.edge64() : BigInt(random.below(1e6)))
  const text = () =>
    random.oneIn(3)
      ? random.pick(["\u001b[2J", "x".repeat(5000), "__proto__", "", "\u0000", "\ud7ff"])
      : "name"
  switch (call) {
    case "wait":
      return toBinary(
        WaitProcessResponseSchema,
        create(WaitProcessResponseSchema, {
          status: random.oneIn(2) ? random.below(256) : random.u32() | 0,
          stdoutBytes: u64(),
        }),
      )
    case "details": {
      const agentDetails = {
        version: text(),
        initDaemon: true,
        storageHandlers: random.list(random.pick([0, 1, 100]), text),
      }
      return toBinary(GuestDetailsResponseSchema, create(GuestDetailsResponseSchema, { agentDetails }))
    }
    case "oom":
      return toBinary(OOMEventSchema, create(OOMEventSchema, { containerId: text() }))
    case "stats": {
      const usage = { usage: u64(), maxUsage: u64(), failcnt: 0n, limit: u64() }
      const stats = Object.fromEntries(
        random.list(random.pick([0, 1, 3, 300]), i => [`${text()}${i}`, u64()]),
      )
      const cgroupStats = {
        cpuStats: { cpuUsage: { totalUsage: u64(), usageInKernelmode: u64() } },
        memoryStats: { usage, cache: u64(), stats },
        pidsStats: { current: u64(), limit: u64() },
      }
      return toBinary(StatsContainerResponseSchema, create(StatsContainerResponseSchema, { cgroupStats }))
    }
    default:
      return new Uint8Array()
  }
}

/** Groups or messages in each other, deep enough for any stack. */
function nested(random: Random): Uint8Array {
  const depth = random.pick([10, 99, 101, 30_000])
  if (random.oneIn(2)) return new Uint8Array(depth).fill(random.pick([0x0b, 0x13, 0x1b]))
  let inner: Uint8Array = new Uint8Array()
  for (let i = 0; i < Math.min(depth, 99); i++)
    inner = join(Uint8Array.of(0x0a, ...varint(inner.length)), inner)
  return inner
}

function varint(value: number): number[] {
  const bytes: number[] = []
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return [...bytes, rest]
    bytes.push((rest & 0x7f) | 0x80)
  }
}

function damagedFrame(random: Random, frame: Uint8Array): Uint8Array {
  const copy = frame.slice()
  switch (random.below(4)) {
    case 0:
      new DataView(copy.buffer).setUint32(
        0,
        random.pick([FRAME_DATA_MAX, FRAME_DATA_MAX + 1, 0xff_ffff, 0x100_0000, 0xffff_ffff]),
      )
      return copy
    case 1:
      return copy.subarray(0, random.below(copy.length))
    case 2:
      return join(copy, copy, copy)
    default:
      return mutate(random, copy)
  }
}

/** The agent's end: whatever is pushed, the client reads; what the client writes is thrown away. */
class Wire extends Duplex {
  override _read(): void {
    // Pushed from outside.
  }

  override _write(_chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    done()
  }
}

class Session {
  readonly #wire = new Wire()
  readonly #agent = new AgentClient(this.#wire)
  readonly #abort = new AbortController()
  readonly #settled: Promise<void>[] = []
  #open = 0

  async run({ steps, chunk, end }: AgentCase): Promise<void> {
    await this.#honestCall()
    for (const step of steps) await this.#step(step, chunk)
    if (end === "end") this.#wire.push(null)
    else this.#wire.destroy(end === "error" ? new Error("lost") : undefined)
    const reason = await this.#agent.closed
    ok(reason instanceof GuestError, "reason of the end")
    await Promise.all(this.#settled)
    strictEqual(this.#open, 0)
    strictEqual(this.#agent.rpc.inFlight, 0, "calls that stay")
  }

  /** What an honest agent says gets through. */
  async #honestCall(): Promise<void> {
    const exited = this.#agent.waitProcess({ containerId: "c", execId: "e" })
    const payload = toBinary(WaitProcessResponseSchema, create(WaitProcessResponseSchema, { status: 3 }))
    const data = toBinary(ResponseSchema, create(ResponseSchema, { payload }))
    this.#wire.push(encodeFrame(1, MESSAGE_TYPE.response, 0, data))
    strictEqual((await exited).exitCode, 3)
  }

  async #step(step: Step, chunk: number): Promise<void> {
    switch (step.do) {
      case "call":
        this.#call(step.call)
        return
      case "send":
        this.#send(step.bytes, Math.max(chunk, step.bytes.length / MAX_CHUNKS))
        return
      case "turn":
        await setImmediate()
        return
      case "abort":
        this.#abort.abort()
    }
  }

  #send(bytes: Uint8Array, chunk: number): void {
    for (let at = 0; at < bytes.length && !this.#wire.destroyed; at += chunk) {
      this.#wire.push(bytes.subarray(at, at + chunk))
    }
  }

  #call(call: Call): void {
    this.#open++
    const options: CallOptions = { timeoutMs: 60_000, signal: this.#abort.signal }
    const outcome = this.#value(call, options).then(
      value => checkValue(call, value),
      (error: unknown) => {
        if (!(error instanceof GuestError)) throw error
        ok(error.message.length < 10_000, "error text without bound")
      },
    )
    this.#settled.push(outcome.finally(() => this.#open--))
  }

  #value(call: Call, options: CallOptions): Promise<unknown> {
    const ref = { containerId: "c", execId: "e" }
    switch (call) {
      case "wait":
        return this.#agent.waitProcess(ref, options)
      case "stats":
        return this.#agent.statsContainer(ref, options)
      case "details":
        return this.#agent.getGuestDetails(options)
      case "oom":
        return this.#agent.getOomEvent(options)
      case "check":
        return this.#agent.check(options)
      case "start":
        return this.#agent.startContainer(ref, options)
    }
  }
}

/** What gets through is what it says it is. */
function checkValue(call: Call, value: unknown): void {
  if (call === "start") strictEqual(value, undefined)
  else if (call === "check") strictEqual(typeof value, "boolean")
  else if (call === "wait") ok((value as ProcessEnd).exitCode <= 255, "exit code")
  checkParts(value)
}

/** Counts are counts, texts short and without control characters, maps and lists bounded. */
function checkParts(value: unknown): void {
  if (typeof value === "number") ok(Number.isSafeInteger(value) && value >= 0, "count")
  if (typeof value === "string") ok(value.length <= 256 && !/\p{Cc}/u.test(value), "text")
  if (typeof value !== "object" || value === null) return
  const parts = value instanceof Map ? [...value].flat() : Object.values(value)
  ok(parts.length <= 512, "a list without bound")
  for (const part of parts) checkParts(part)
}

fuzz<AgentCase>({
  name: "agent",
  share: 0.08,
  generate,
  run: input => new Session().run(input),
})
