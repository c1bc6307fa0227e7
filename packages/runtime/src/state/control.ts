import { chmodSync } from "node:fs"
import { createConnection, createServer, type Server, type Socket } from "node:net"
import { join } from "node:path"
import { SandboxError, type SandboxErrorCode } from "../errors.js"

/** What one process may ask of the owner of a sandbox. */
export type ControlRequest = { readonly op: "signal"; readonly signal: number } | { readonly op: "kill" }

type ControlReply =
  | { readonly ok: true }
  | { readonly ok: false; readonly code: SandboxErrorCode; readonly message: string }

const SOCKET_FILE = "ctl.sock"
/** A request is one short line; whoever sends more is no client of ours. */
const MAX_LINE = 4096
const IDLE_TIMEOUT_MS = 5_000
const MAX_CONNECTIONS = 16

/**
 * Listens in the sandbox's private folder (0700, socket 0600): only its user can reach it. One line of JSON
 * each way, then the connection ends.
 */
export function serveControl(
  directory: string,
  handle: (request: ControlRequest) => Promise<void>,
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
export async function requestControl(directory: string, request: ControlRequest): Promise<void> {
  const socket = createConnection(join(directory, SOCKET_FILE))
  try {
    socket.end(`${JSON.stringify(request)}\n`)
    const reply = JSON.parse(await readLine(socket)) as ControlReply
    if (!reply.ok) throw new SandboxError(reply.code, reply.message)
  } catch (error) {
    if (error instanceof SandboxError) throw error
    throw new SandboxError("stopped", "the sandbox does not answer: it is ending or its owner is stuck", {
      cause: error,
    })
  } finally {
    socket.destroy()
  }
}

async function serveOne(socket: Socket, handle: (request: ControlRequest) => Promise<void>): Promise<void> {
  const reply = await answer(await readLine(socket), handle)
  socket.end(`${JSON.stringify(reply)}\n`)
}

async function answer(
  line: string,
  handle: (request: ControlRequest) => Promise<void>,
): Promise<ControlReply> {
  try {
    await handle(parseRequest(line))
    return { ok: true }
  } catch (error) {
    const code = error instanceof SandboxError ? error.code : "invalid-argument"
    return { ok: false, code, message: error instanceof Error ? error.message : String(error) }
  }
}

function parseRequest(line: string): ControlRequest {
  const value = JSON.parse(line) as { op?: unknown; signal?: unknown }
  if (value.op === "kill") return { op: "kill" }
  if (value.op === "signal" && Number.isInteger(value.signal))
    return { op: "signal", signal: value.signal as number }
  throw new SandboxError("invalid-argument", "unknown control request")
}

async function readLine(socket: Socket): Promise<string> {
  socket.setTimeout(IDLE_TIMEOUT_MS, () => socket.destroy(new Error("the peer is silent")))
  let text = ""
  for await (const chunk of socket.setEncoding("utf8").iterator({ destroyOnReturn: false })) {
    text += chunk as string
    const end = text.indexOf("\n")
    if (end >= 0) return text.slice(0, end)
    if (text.length > MAX_LINE) throw new Error("the line is too long")
  }
  throw new Error("the peer hung up")
}
