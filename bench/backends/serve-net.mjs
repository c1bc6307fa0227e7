// node serve-net.mjs tap SOCKET NAME: our vhost-user-net back end on a tap device of this network namespace, as built.
// node serve-net.mjs stream SOCKET PATH: the same on passt, which listens at PATH.
import { ROOT } from "../../scripts/setup/paths.mjs"

const DIST = `${ROOT}/packages/virtio-devices/dist`
const { NetDevice } = await import(`${DIST}/net/index.js`)
const { SocketPort } = await import(`${DIST}/net/socket/index.js`)
const { serveVhostUser } = await import(`${DIST}/vhost-user/index.js`)
const { unixConnect } = await import(`${ROOT}/packages/native/dist/index.js`)

const [kind, socketPath, where] = process.argv.slice(2)

async function makePort() {
  if (kind === "stream") return { port: new SocketPort(unixConnect(where)), mtu: 65_520 }
  const { openTap, TapPort } = await import(`${DIST}/net/tap/index.js`)
  const tap = openTap({ name: where })
  return { port: new TapPort(tap), mtu: tap.mtu }
}

const { port, mtu } = await makePort()
const server = await serveVhostUser(new NetDevice(port, { mtu }), { socketPath })
process.once("SIGTERM", () => {
  port.close()
  server.close()
})
