// One stream between a guest's driver, played by a C program over vhost-user, and a Node program on the host; beside a
// plain AF_UNIX stream between the same two, and beside vhost-device-vsock between them. And what must not make a
// difference: how many other streams are open.
import { fileURLToPath } from "node:url"
import { compileFrontEnd } from "../frontend/compile.mjs"
import { goals } from "../harness.mjs"
import { newerProgram } from "../newer-debian.mjs"
import { output, PLACEMENTS, pinned, startServer } from "../process.mjs"

const SERVER = fileURLToPath(new URL("../backends/serve-vsock.mjs", import.meta.url))
const PEER = "vhost-device-vsock"
const ROUND_SECONDS = "0.7"
const IDLE_STREAMS = 1000

const stream = (name, verb) => ({
  ...{ name, verb, unit: "MB/s", better: "higher", figure: "bytesPerSecond", scale: 1e-6 },
  ...{ unixGoal: goals.ratioAtLeast(0.8), peerGoal: goals.ratioAtLeast(1) },
})
const WORKLOADS = [
  stream("stream, guest to host", "send"),
  stream("stream, host to guest", "receive"),
  {
    ...{ name: "echo of 1 byte", verb: "echo", unit: "µs", better: "lower", figure: "medianUs", scale: 1 },
    ...{ unixGoal: goals.ratioAtMost(2), peerGoal: goals.ratioAtMost(1) },
  },
]

/** The peer's device, with the same Node program behind it. */
async function startPeer(command, at, cpu, onEnd) {
  const [socket, ports] = [`${at}peer`, `${at}ports`]
  await startServer(pinned(cpu, process.execPath, SERVER, "ports", ports), `${ports}_1024`, onEnd)
  const vm = `guest-cid=3,socket=${socket},uds-path=${ports}`
  await startServer(pinned(cpu, ...command, "--vm", vm), socket, onEnd)
  return socket
}

export default {
  name: "vsock",
  description: "one stream, no guest",
  async prepare({ folder, onEnd }) {
    const frontEnd = await compileFrontEnd("vsock_bench")
    const { command, missing } = await newerProgram(PEER)
    const cases = []
    for (const { name: placement, server, client } of PLACEMENTS) {
      const at = `${folder}/${server}${client}`
      const socketOf = kind => `${at}${kind}`
      for (const kind of ["device", "unix"])
        await startServer(
          pinned(server, process.execPath, SERVER, kind, socketOf(kind)),
          socketOf(kind),
          onEnd,
        )
      const peer = command && (await startPeer(command, at, server, onEnd))
      const measure = async (kind, socket, { verb, figure, scale }, ...idle) => {
        const words = [kind, socket, verb, ROUND_SECONDS, ...idle]
        return JSON.parse(await output(pinned(client, frontEnd, ...words)))[figure] * scale
      }
      const ours = (workload, ...idle) => measure("device", socketOf("device"), workload, ...idle)
      for (const workload of WORKLOADS) {
        const { name, unit, better, unixGoal, peerGoal } = workload
        const mine = { name: `${name}, ${placement}`, unit, better, ours: () => ours(workload) }
        const unix = () => measure("unix", socketOf("unix"), workload)
        const other = { name: `${PEER} of Debian sid`, measure: () => measure("device", peer, workload) }
        cases.push({ ...mine, peer: { name: "AF_UNIX stream", measure: unix }, goal: unixGoal })
        cases.push({ ...mine, ...(peer ? { peer: other, goal: peerGoal } : { missing }) })
      }
      const [workload] = WORKLOADS
      cases.push({
        ...{ name: `flat in ${IDLE_STREAMS} other streams: ${workload.name}, ${placement}` },
        ...{ unit: workload.unit, better: workload.better, goal: goals.ratioAtLeast(0.8) },
        ours: () => ours(workload, String(IDLE_STREAMS)),
        peer: { name: "ours, none", measure: () => ours(workload) },
      })
    }
    return cases
  },
}
