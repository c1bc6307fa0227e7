// node serve-folder.mjs FOLDER SOCKET: our vhost-user-fs back end on a folder, as built.
import { ROOT } from "../../scripts/setup/paths.mjs"

const DIST = `${ROOT}/packages/virtio-devices/dist`
const { FsDevice } = await import(`${DIST}/fs/index.js`)
const { serveVhostUser } = await import(`${DIST}/vhost-user/index.js`)

const [folder, socketPath] = process.argv.slice(2)
const server = await serveVhostUser(new FsDevice(folder, { tag: "bench", maxFiles: 200_000 }), { socketPath })
process.once("SIGTERM", () => server.close())
