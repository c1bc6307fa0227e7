import { createConnection, type Socket } from "node:net"
import { join } from "node:path"
import { pipeline } from "node:stream/promises"
import { WatchedSource } from "../copy/watched-source.js"
import { SandboxError } from "../errors.js"
import { type ControlReply, type ControlRequest, MAX_REPLY, SOCKET_FILE } from "./control-protocol.js"
import { framed, SocketReader } from "./socket-reader.js"

/**
 * Sends one request to the owner of the sandbox in `directory`.
 *
 * @throws SandboxError the owner's own, or `stopped` when nobody listens there
 */
export async function requestControl(directory: string, request: ControlRequest): Promise<unknown> {
  const { socket, reader } = connect(directory, request)
  try {
    socket.end()
    return await readReply(reader)
  } finally {
    socket.destroy()
  }
}

/**
 * Sends one request and what follows it.
 *
 * @throws SandboxError like {@link requestControl}; what `chunks` throws
 */
export async function sendControl(
  directory: string,
  request: ControlRequest,
  chunks: AsyncIterable<Uint8Array>,
): Promise<unknown> {
  const { socket, reader } = connect(directory, request)
  const source = new WatchedSource(chunks)
  try {
    // The reply may come first: the owner may not want the rest. A source that fails ends the conversation.
    pipeline(framed(source), socket, { end: false }).catch(() => socket.destroy())
    return await readReply(reader)
  } catch (error) {
    throw source.failure ? source.failure.error : error
  } finally {
    socket.destroy()
  }
}

/**
 * Sends one request and hands out what comes before the reply, which ends it.
 *
 * @throws SandboxError like {@link requestControl}
 */
export async function* receiveControl(directory: string, request: ControlRequest): AsyncGenerator<Buffer> {
  const { socket, reader } = connect(directory, request)
  try {
    socket.end()
    yield* reader.frames()
    await readReply(reader)
  } catch (error) {
    throw noAnswer(error)
  } finally {
    socket.destroy()
  }
}

function connect(directory: string, request: ControlRequest): { socket: Socket; reader: SocketReader } {
  const socket = createConnection(join(directory, SOCKET_FILE))
  socket.on("error", () => undefined) // whoever reads it learns of it
  socket.write(`${JSON.stringify(request)}\n`)
  return { socket, reader: new SocketReader(socket) }
}

/** However long it takes: the owner's end ends the connection. */
async function readReply(reader: SocketReader): Promise<unknown> {
  try {
    const reply = JSON.parse(await reader.line({ max: MAX_REPLY })) as ControlReply
    if (!reply.ok) throw new SandboxError(reply.code, reply.message)
    return reply.value
  } catch (error) {
    throw noAnswer(error)
  }
}

function noAnswer(error: unknown): SandboxError {
  if (error instanceof SandboxError) return error
  const message = "the sandbox does not answer: it is ending or its owner is stuck"
  return new SandboxError("stopped", message, { cause: error })
}
