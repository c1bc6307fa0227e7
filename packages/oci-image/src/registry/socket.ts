import type { Socket } from "node:net"
import { buildConnector } from "undici"

/**
 * Connects as undici does, but its parser is only told of a connection's end when it asks for more.
 *
 * undici 7 finishes an answer that ends with its connection in the handlers of the socket's `end` and of a reset. When
 * whoever reads the body is slow, the parser rests just then, an assertion fails there, and nobody can catch it: a
 * server could end the process with `Connection: close`.
 *
 * @see nodejs/undici issue 5360, mended in undici 8, which does not run on Node 20
 */
export function patientConnector(options: buildConnector.BuildOptions): buildConnector.connector {
  return patient(buildConnector(options))
}

/** The same for connections that are made in another way. */
export function patient(connect: buildConnector.connector): buildConnector.connector {
  return (to, callback) =>
    connect(to, (...result) => {
      if (result[1]) holdBackEnd(result[1])
      callback(...result)
    })
}

function holdBackEnd(socket: Socket): void {
  const push = socket.push.bind(socket)
  const read = socket.read.bind(socket)
  const destroy = socket.destroy.bind(socket)
  let isEnding = false
  socket.push = (chunk, encoding) => {
    if (chunk !== null) return push(chunk, encoding)
    isEnding = true
    // Who waits looks again, and is told then; who rests does so when it goes on.
    setImmediate(() => socket.emit("readable"))
    return false
  }
  socket.read = size => {
    if (isEnding && size === 0) return null // Node's own look for the end
    const taken = read(size)
    if (taken === null && isEnding) {
      isEnding = false
      setImmediate(() => push(null))
    }
    return taken
  }
  socket.destroy = error => destroy(error && withoutReset(error))
}

/** A reset is handled like an end, without a look at whether the parser rests: any other error is not. */
function withoutReset(error: NodeJS.ErrnoException): Error {
  if (error.code !== "ECONNRESET") return error
  return Object.assign(new Error(error.message, { cause: error }), { code: "ECONNABORTED" })
}
