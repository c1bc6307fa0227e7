import { chmodSync } from "node:fs"
import { createServer, type Server, type Socket } from "node:net"
import { join } from "node:path"
import { pipeline } from "node:stream/promises"
import { WatchedSource } from "../copy/watched-source.js"
import { SandboxError } from "../errors.js"
import type { MemoryChange } from "../memory/control.js"
import {
  type ControlReply,
  type ControlRequest,
  type CopyInRequest,
  type CpuChange,
  MAX_REPLY,
  SOCKET_FILE,
} from "./control-protocol.js"
import { framed, SocketReader } from "./socket-reader.js"

/** What goes to and fro besides a request and its reply. */
export interface ControlStreams {
  /** What the peer sends after its request. */
  received(): AsyncIterable<Buffer>
  /** Sends before the reply; whole when it resolves. @throws what `chunks` throws */
  send(chunks: AsyncIterable<Uint8Array>): Promise<void>
}

/** Does what is asked, and returns what the reply tells. */
export type ControlHandler = (request: ControlRequest, streams: ControlStreams) => Promise<unknown>

/** A request is one short line; whoever sends more is no client of ours. */
const MAX_LINE = 64 * 1024
const IDLE_TIMEOUT_MS = 5_000
const MAX_CONNECTIONS = 16

/**
 * Listens in the sandbox's private folder (0700, socket 0600): only its user can reach it. One line of JSON
 * each way, then the connection ends; what is copied goes as frames between the two.
 */
export function serveControl(directory: string, handle: ControlHandler): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, socket => {
    serveOne(socket, handle).catch(() => socket.destroy())
  })
  server.maxConnections = MAX_CONNECTIONS
  // A sandbox's control socket alone keeps no program alive.
  server.unref()
  const path = join(directory, SOCKET_FILE)
  return new Promise((resolve, reject) => {
    server.once("error", reject)
    server.listen(path, () => {
      chmodSync(path, 0o600)
      resolve(server)
    })
  })
}

async function serveOne(socket: Socket, handle: ControlHandler): Promise<void> {
  socket.on("error", () => undefined) // whoever reads it learns of it
  const reader = new SocketReader(socket)
  const line = await reader.line({ max: MAX_LINE, timeoutMs: IDLE_TIMEOUT_MS })
  const reply = `${JSON.stringify(await answer(line, handle, streamsOf(socket, reader)))}\n`
  socket.end(reply.length <= MAX_REPLY ? reply : `${JSON.stringify(TOO_LARGE)}\n`)
  // What nobody wants any more must not keep the peer from reading the reply.
  await reader.drain()
}

function streamsOf(socket: Socket, reader: SocketReader): ControlStreams {
  return {
    received: () => reader.frames(),
    send: async chunks => {
      const source = new WatchedSource(chunks)
      await pipeline(framed(untilFailure(source)), socket, { end: false })
      if (source.failure) throw source.failure.error
    },
  }
}

/** Ends where the source fails: the reply that comes after it says why. */
async function* untilFailure(source: WatchedSource): AsyncGenerator<Uint8Array> {
  try {
    yield* source
  } catch (error) {
    if (!source.failure) throw error
  }
}

const TOO_LARGE: ControlReply = {
  ok: false,
  code: "output-too-large",
  message: `the answer is longer than ${MAX_REPLY} bytes: ask in the process that owns the sandbox`,
}

async function answer(line: string, handle: ControlHandler, streams: ControlStreams): Promise<ControlReply> {
  try {
    const value = await handle(parseRequest(line), streams)
    return { ok: true, ...(value === undefined ? {} : { value }) }
  } catch (error) {
    const code = error instanceof SandboxError ? error.code : "invalid-argument"
    return { ok: false, code, message: error instanceof Error ? error.message : String(error) }
  }
}

function parseRequest(line: string): ControlRequest {
  const value = JSON.parse(line) as { op?: unknown; signal?: unknown; options?: unknown }
  if (value.op === "kill" || value.op === "diff") return { op: value.op }
  if (value.op === "signal" && Number.isInteger(value.signal))
    return { op: "signal", signal: value.signal as number }
  const options = (value.options ?? undefined) as
    | (Partial<CopyInRequest> & MemoryChange & CpuChange)
    | undefined
  // From the same user; the store holds the new image to what it holds every image to.
  if (value.op === "commit" && typeof options === "object") return { op: "commit", options }
  // What is asked of memory and CPUs is checked where it is done.
  if (value.op === "memory" && typeof options === "object") return { op: "memory", options }
  if (value.op === "cpus" && typeof options === "object") return { op: "cpus", options }
  // The agent checks what is copied, and where it goes.
  if (value.op === "copy-out" && typeof options?.path === "string")
    return { op: "copy-out", options: { ...options, path: options.path } }
  if (value.op === "copy-in" && typeof options?.path === "string")
    return { op: "copy-in", options: { name: "", contents: false, ...options, path: options.path } }
  throw new SandboxError("invalid-argument", "unknown control request")
}
