// 4 KiB random and 256 KiB sequential reads through vhost-user, driven by a C front end without a guest: ours beside
// qemu-storage-daemon, same file, same pinning, every answer checked against the file's pattern.
import { fileURLToPath } from "node:url"
import { compileFrontEnd } from "../frontend/compile.mjs"
import { goals } from "../harness.mjs"
import { output, PLACEMENTS, pinned, startServer, versionOf, which } from "../process.mjs"
import { READS } from "../reads.mjs"

const OURS = fileURLToPath(new URL("../backends/serve-block.mjs", import.meta.url))
const PEER = "qemu-storage-daemon"
const FILE_BYTES = 256 * 1024 * 1024
const ROUND_SECONDS = 0.7

/** Only the first has a goal. */
const WORKLOADS = READS.map((read, index) => (index === 0 ? { ...read, goal: goals.ratioAtLeast(1) } : read))

const peerArguments = (file, socket) => [
  ...["--blockdev", `driver=file,node-name=disk,filename=${file},aio=io_uring,locking=off`],
  ...["--export", `type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=${socket}`],
]

async function startBoth(folder, file, placement, onEnd) {
  const at = `${folder}/${placement.name.replace(" ", "-")}`
  const ours = `${at}.ours`
  await startServer(pinned(placement.server, process.execPath, OURS, file, ours), ours, onEnd)
  if (!which(PEER)) return { ours }
  const peer = `${at}.peer`
  await startServer(pinned(placement.server, PEER, ...peerArguments(file, peer)), peer, onEnd)
  return { ours, peer }
}

export default {
  name: "blk",
  description: "vhost-user-blk back end without a guest",
  async prepare({ folder, onEnd }) {
    const frontEnd = await compileFrontEnd("blk_bench")
    const file = `${folder}/disk`
    await output([frontEnd, "make", file, String(FILE_BYTES)])
    const cases = []
    for (const placement of PLACEMENTS) {
      const sockets = await startBoth(folder, file, placement, onEnd)
      for (const { name, args, unit, better, figure, scale = 1, goal } of WORKLOADS) {
        const measure = async socket => {
          const seed = Math.floor(Math.random() * 2 ** 31)
          const line = await output(
            pinned(
              placement.client,
              frontEnd,
              "run",
              socket,
              ...args.map(String),
              String(ROUND_SECONDS),
              String(seed),
            ),
          )
          return JSON.parse(line)[figure] * scale
        }
        cases.push({
          name: `${name}, ${placement.name}`,
          unit,
          better,
          ours: () => measure(sockets.ours),
          ...(sockets.peer
            ? {
                peer: {
                  name: `${versionOf(PEER).replace(" version", "").split(" (")[0]} aio=io_uring`,
                  measure: () => measure(sockets.peer),
                },
              }
            : { missing: `${PEER} is not installed` }),
          ...(goal && { goal }),
        })
      }
    }
    return cases
  },
}
