// One host for several commands: a server on a Unix socket that starts what its clients ask for, and the client.
import { rmSync } from "node:fs"
import { createConnection, createServer } from "node:net"
import { onMessages, send, sendBytes } from "./messages.mjs"

/** Serves one connection: one command, with its output, its end, and its death when the client leaves. */
function serveClient(host, socket) {
  let run
  socket.on("error", () => undefined) // its end follows
  socket.on("close", () => run?.kill())
  onMessages(socket, message => {
    if (message.type === "start") {
      run = host.run(message.argv, {
        cwd: message.cwd,
        env: message.env,
        onOutput: (name, bytes) => sendBytes(socket, 0, name, bytes),
      })
      run.exited.then(
        end => send(socket, { type: "exit", ...end }),
        error => send(socket, { type: "failed", message: error.message }),
      )
    } else if (message.type === "stdin") run?.write(Buffer.from(message.data, "base64"))
    else if (message.type === "end") run?.end()
  })
}

/** Offers `host` at `path` until the returned function is called. */
export function shareKvmHost(host, path) {
  rmSync(path, { force: true })
  const server = createServer(socket => serveClient(host, socket))
  const mask = process.umask(0o177)
  server.listen(path)
  process.umask(mask)
  return () => server.close()
}

/**
 * A host that another process offers at `path`, with the same `run`; undefined when nobody does.
 * @returns {Promise<{ run: Function, stop: () => Promise<void> } | undefined>}
 */
export async function sharedKvmHost(path) {
  const probe = createConnection(path)
  const found = await new Promise(resolve =>
    probe.once("connect", () => resolve(true)).once("error", () => resolve(false)),
  )
  probe.destroy()
  return found
    ? { run: (argv, options) => runShared(path, argv, options), stop: async () => undefined }
    : undefined
}

function runShared(path, argv, { cwd = process.cwd(), env = {}, onOutput = () => undefined } = {}) {
  const socket = createConnection(path)
  send(socket, { type: "start", argv, cwd, env })
  let killed = false
  const exited = new Promise((resolve, reject) => {
    socket.on("error", reject)
    socket.on("close", () =>
      killed ? resolve({ code: null, signal: "SIGKILL" }) : reject(new Error("the KVM test host ended")),
    )
    onMessages(socket, message => {
      if (message.type === "exit") resolve({ code: message.code, signal: message.signal })
      else if (message.type === "failed") reject(new Error(message.message))
      else onOutput(message.type, Buffer.from(message.data, "base64"))
    })
  })
  return {
    exited: exited.finally(() => socket.destroy()),
    write: bytes => sendBytes(socket, 0, "stdin", bytes),
    end: () => send(socket, { type: "end" }),
    kill: () => {
      killed = true
      socket.destroy()
    },
  }
}
