// node serve-block.mjs FILE SOCKET: our vhost-user-blk back end on a file, read-only, as built.
import { ROOT } from "../../scripts/setup/paths.mjs"

const DIST = `${ROOT}/packages/virtio-devices/dist`
const { BlockDevice, openFileBackend } = await import(`${DIST}/block/index.js`)
const { serveVhostUser } = await import(`${DIST}/vhost-user/index.js`)

const [file, socketPath] = process.argv.slice(2)
const server = await serveVhostUser(new BlockDevice(openFileBackend(file, { readOnly: true })), {
  socketPath,
})
process.once("SIGTERM", () => server.close())
