// node serve-vsock.mjs device|unix|ports SOCKET: the host's end of a stream, over our vsock device or over a plain AF_UNIX
// socket. Port 1024 (or a first byte "s") swallows what comes, 1025 (or "r") sends without end, 1026 (or "e") gives back
// what comes. "ports" are AF_UNIX sockets SOCKET_1024 and so on, as other vsock devices connect to them.
import { createServer } from "node:net"
import { ROOT } from "../../scripts/setup/paths.mjs"

const CHUNK = 65_536
/** Byte n of the stream is n modulo this; the other end checks every one. */
const PERIOD = 251

const template = Buffer.from(Array.from({ length: CHUNK + PERIOD }, (_, n) => n % PERIOD))

function swallow(stream) {
  stream.resume()
}

function sendWithoutEnd(stream) {
  let sent = 0
  const fill = () => {
    for (let more = true; more && !stream.destroyed; sent += CHUNK) {
      const from = sent % PERIOD
      more = stream.write(template.subarray(from, from + CHUNK))
    }
  }
  stream.on("drain", fill)
  stream.resume()
  fill()
}

function giveBack(stream) {
  stream.on("data", bytes => stream.write(bytes))
}

const PORTS = { 1024: swallow, 1025: sendWithoutEnd, 1026: giveBack }

/** The bench's end simply goes away when its time is over. */
const withoutErrors = serve => stream => {
  stream.on("error", () => stream.destroy())
  serve(stream)
}

async function serveDevice(socketPath) {
  const { VsockDevice } = await import(`${ROOT}/packages/vsock/dist/index.js`)
  const { serveVhostUser } = await import(`${ROOT}/packages/virtio-devices/dist/vhost-user/index.js`)
  const vsock = new VsockDevice({ guestCid: 3 })
  for (const [port, serve] of Object.entries(PORTS)) vsock.listen(Number(port), withoutErrors(serve))
  const server = await serveVhostUser(vsock, { socketPath })
  process.once("SIGTERM", () => server.close())
}

function serveUnix(socketPath) {
  const onStream = stream => {
    stream.once("readable", () => {
      const wish = stream.read(1)?.toString()
      if (wish === "r") sendWithoutEnd(stream)
      else if (wish === "e") giveBack(stream)
      else swallow(stream)
    })
  }
  const server = createServer(withoutErrors(onStream)).listen(socketPath)
  process.once("SIGTERM", () => process.exit(server.close() ? 0 : 1))
}

function servePorts(socketPath) {
  const servers = Object.entries(PORTS).map(([port, serve]) =>
    createServer(withoutErrors(serve)).listen(`${socketPath}_${port}`),
  )
  process.once("SIGTERM", () => process.exit(servers.every(server => server.close()) ? 0 : 1))
}

const [kind, socketPath] = process.argv.slice(2)
if (kind === "device") await serveDevice(socketPath)
else if (kind === "ports") servePorts(socketPath)
else serveUnix(socketPath)
