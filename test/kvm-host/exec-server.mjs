// Runs inside the KVM test host as its only service: starts commands that arrive on a virtio-serial port and sends
// back what they print and how they end. Ends the host when the port says so.
//
//   -> { id, type: "start", argv, cwd, env }   -> { id, type: "stdin", data } | { id, type: "end" | "kill" }
//   <- { id, type: "stdout" | "stderr", data } <- { id, type: "exit", code, signal }
//   -> { id, type: "ping" }                    <- { id, type: "pong" }
import { execFileSync, spawn } from "node:child_process"
import { createReadStream, createWriteStream, openSync, writeFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { onMessages, send, sendBytes } from "./messages.mjs"

const port = openSync(process.argv[2], "r+")
const out = createWriteStream(null, { fd: port, autoClose: false })
const running = new Map()

function start({ id, argv, cwd, env }) {
  // Files may have been changed outside since the last command: what was looked up and read then would be stale.
  writeFileSync("/proc/sys/vm/drop_caches", "3")
  // A process group of its own, so that a kill reaches what the command started.
  const child = spawn(argv[0], argv.slice(1), { cwd, env, detached: true, stdio: "pipe" })
  running.set(id, child)
  for (const name of ["stdout", "stderr"]) child[name].on("data", bytes => sendBytes(out, id, name, bytes))
  child.stdin.on("error", () => undefined) // it need not read what it is sent
  child.on("error", error => {
    sendBytes(out, id, "stderr", Buffer.from(`${error.message}\n`))
    send(out, { id, type: "exit", code: 127, signal: null })
  })
  child.on("close", (code, signal) => {
    running.delete(id)
    if (child.pid !== undefined) send(out, { id, type: "exit", code, signal })
  })
}

function kill(child) {
  try {
    process.kill(-child.pid, "SIGKILL")
  } catch (error) {
    if (error.code !== "ESRCH") throw error
  }
}

const HANDLERS = {
  start,
  stdin: ({ id, data }) => running.get(id)?.stdin.write(Buffer.from(data, "base64")),
  end: ({ id }) => running.get(id)?.stdin.end(),
  kill: ({ id }) => running.has(id) && kill(running.get(id)),
  ping: ({ id }) => send(out, { id, type: "pong" }),
  poweroff: () => execFileSync("/bin/busybox", ["poweroff", "-f"]),
}

/** See keep-kvm.pl; it stays until the host ends. */
async function keepKvm() {
  const script = fileURLToPath(new URL("keep-kvm.pl", import.meta.url))
  const keeper = spawn("/usr/bin/perl", [script], { stdio: ["ignore", "pipe", "inherit"] })
  await new Promise((resolve, reject) => {
    keeper.stdout.once("data", resolve)
    keeper.once("exit", code => reject(new Error(`keep-kvm.pl ended with code ${code}`)))
  })
}

await keepKvm()
onMessages(createReadStream(null, { fd: port, autoClose: false }), message =>
  HANDLERS[message.type]?.(message),
)
send(out, { type: "ready" })
