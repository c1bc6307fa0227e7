// Messages between the machine and the KVM test host: one JSON object a line, bytes as base64.

/** A line beyond this is no message of ours. */
const MAX_LINE = 4 * 1024 * 1024
/** Bytes of output in one message: what a virtio-serial port takes without splitting it much. */
const CHUNK = 64 * 1024

/** @param {import("node:stream").Writable} stream @param {object} message */
export function send(stream, message) {
  stream.write(`${JSON.stringify(message)}\n`)
}

/** Sends bytes as messages `{ id, type, data }`, none too long. */
export function sendBytes(stream, id, type, bytes) {
  for (let at = 0; at < bytes.length; at += CHUNK)
    send(stream, { id, type, data: bytes.subarray(at, at + CHUNK).toString("base64") })
}

/** Calls `listener` with each message that arrives; what is no message (a kernel line on the port) is left out. */
export function onMessages(stream, listener) {
  let rest = ""
  stream.setEncoding("latin1")
  stream.on("data", text => {
    const lines = (rest + text).split("\n")
    rest = lines.pop()
    if (rest.length > MAX_LINE) rest = ""
    for (const line of lines) {
      const message = parse(line)
      if (message) listener(message)
    }
  })
}

function parse(line) {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}
