// node serve-block.mjs FILE SOCKET [raw|direct|qcow2] [QUEUES] [THREADS]: our vhost-user-blk back end on a file, read-only, as built.
import { ROOT } from "../../scripts/setup/paths.mjs"

const DIST = `${ROOT}/packages/virtio-devices/dist`
const { BlockDevice, openFileBackend, openQcow2Backend } = await import(`${DIST}/block/index.js`)
const { serveVhostUser } = await import(`${DIST}/vhost-user/index.js`)

const [file, socketPath, kind = "raw", queues = "1", threads = "0"] = process.argv.slice(2)
const options = { readOnly: true, direct: kind === "direct" }
const disk = kind === "qcow2" ? await openQcow2Backend(file, options) : openFileBackend(file, options)
const device = new BlockDevice(disk, { queues: Number(queues), threads: Number(threads) })
const server = serveVhostUser(device, { socketPath })
process.once("SIGTERM", () => server.close())
