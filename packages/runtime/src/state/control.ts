import { chmodSync } from "node:fs"
import { createConnection, createServer, type Server, type Socket } from "node:net"
import { join } from "node:path"
import type { ContainerCommitOptions } from "../container/commit.js"
import { SandboxError, type SandboxErrorCode } from "../errors.js"

/** What one process may ask of the owner of a sandbox. */
export type ControlRequest =
  | { readonly op: "signal"; readonly signal: number }
  | { readonly op: "kill" }
  | { readonly op: "diff" }
  | { readonly op: "commit"; readonly options: CommitRequest }

/** What can be said of a commit from outside. */
export type CommitRequest = Omit<ContainerCommitOptions, "signal" | "timeoutMs" | "created">

type ControlReply =
  | { readonly ok: true; readonly value?: unknown }
  | { readonly ok: false; readonly code: SandboxErrorCode; readonly message: string }

const SOCKET_FILE = "ctl.sock"
/** A request is one short line; whoever sends more is no client of ours. */
const MAX_LINE = 64 * 1024
/** A reply may hold a list. */
const MAX_REPLY = 64 * 1024 * 1024
const IDLE_TIMEOUT_MS = 5_000
const MAX_CONNECTIONS = 16

/**
 * Listens in the sandbox's private folder (0700, socket 0600): only its user can reach it. One line of JSON
 * each way, then the connection ends.
 */
export function serveControl(
  directory: string,
  handle: (request: ControlRequest) => Promise<unknown>,
): Promise<Server> {
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

/**
 * Sends one request to the owner of the sandbox in `directory`.
 *
 * @throws SandboxError the owner's own, or `stopped` when nobody listens there
 */
export async function requestControl(directory: string, request: ControlRequest): Promise<unknown> {
  const socket = createConnection(join(directory, SOCKET_FILE))
  try {
    socket.end(`${JSON.stringify(request)}\n`)
    // However long it takes: the owner's end ends the connection.
    const reply = JSON.parse(await readLine(socket, { max: MAX_REPLY })) as ControlReply
    if (!reply.ok) throw new SandboxError(reply.code, reply.message)
    return reply.value
  } catch (error) {
    if (error instanceof SandboxError) throw error
    throw new SandboxError("stopped", "the sandbox does not answer: it is ending or its owner is stuck", {
      cause: error,
    })
  } finally {
    socket.destroy()
  }
}

async function serveOne(
  socket: Socket,
  handle: (request: ControlRequest) => Promise<unknown>,
): Promise<void> {
  const line = await readLine(socket, { max: MAX_LINE, timeoutMs: IDLE_TIMEOUT_MS })
  const reply = `${JSON.stringify(await answer(line, handle))}\n`
  socket.end(reply.length <= MAX_REPLY ? reply : `${JSON.stringify(TOO_LARGE)}\n`)
}

const TOO_LARGE: ControlReply = {
  ok: false,
  code: "output-too-large",
  message: `the answer is longer than ${MAX_REPLY} bytes: ask in the process that owns the sandbox`,
}

async function answer(
  line: string,
  handle: (request: ControlRequest) => Promise<unknown>,
): Promise<ControlReply> {
  try {
    const value = await handle(parseRequest(line))
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
  // From the same user; the store holds the new image to what it holds every image to.
  if (value.op === "commit" && typeof value.options === "object" && value.options !== null)
    return { op: "commit", options: value.options }
  throw new SandboxError("invalid-argument", "unknown control request")
}

async function readLine(
  socket: Socket,
  { max, timeoutMs = 0 }: { max: number; timeoutMs?: number },
): Promise<string> {
  socket.setTimeout(timeoutMs, () => socket.destroy(new Error("the peer is silent")))
  let text = ""
  for await (const chunk of socket.setEncoding("utf8").iterator({ destroyOnReturn: false })) {
    const end = (chunk as string).indexOf("\n")
    text += end < 0 ? chunk : (chunk as string).slice(0, end)
    if (text.length > max) throw new Error("the line is too long")
    if (end >= 0) {
      socket.setTimeout(0)
      return text
    }
  }
  throw new Error("the peer hung up")
}
