// UDP datagrams between a guest's network card, whose driver is played by a C program over vhost-user, and sockets on the
// host's loopback interface, through passt: our device with passt behind it, beside passt with a vhost-user back end of its
// own (Debian sid's, which is behind ours as well). Ours has one process more on the way, so there is no goal: it tells
// what that process costs. No TCP, which the C program does not have; `net-qemu` has.
import { fileURLToPath } from "node:url"
import { compileFrontEnd } from "../frontend/compile.mjs"
import { Skip } from "../harness.mjs"
import { FAR_END, inside, makeNamespaces, NEAR_END } from "../namespaces.mjs"
import { newerProgram } from "../newer-debian.mjs"
import { passtFolder, startPasst } from "../passt.mjs"
import { output, PLACEMENTS, pinned, startServer } from "../process.mjs"

const SERVER = fileURLToPath(new URL("../backends/serve-net.mjs", import.meta.url))
const ROUND_SECONDS = "0.7"
const WARM_UP_SECONDS = "2"
const GUEST_PORT = "5301"

const workload = (name, verb, size, unit, figure, scale) => ({
  ...{ name, args: [verb, size], unit, better: "higher", figure, scale },
})
const WORKLOADS = [
  workload("UDP in 64 byte frames, guest to host", "send", "64", "frames/s", "framesPerSecond", 1),
  workload("UDP in 64 byte frames, host to guest", "receive", "64", "frames/s", "framesPerSecond", 1),
  workload("UDP in 32,000 byte frames, guest to host", "send", "32000", "MB/s", "bytesPerSecond", 1e-6),
  workload("UDP in 32,000 byte frames, host to guest", "receive", "32000", "MB/s", "bytesPerSecond", 1e-6),
]

export default {
  name: "net-passt",
  description: "network card without a guest, on passt",
  async prepare({ folder, onEnd }) {
    const { command, missing } = await newerProgram("passt")
    if (missing) throw new Skip(missing)
    const frontEnd = await compileFrontEnd("net_bench")
    const sockets = passtFolder(folder)
    const cases = []
    for (const { name: placement, server, client } of PLACEMENTS) {
      const passt = pinned(server, ...command)
      const [stream, mine, own] = [`${sockets}/t${client}`, `${folder}/s${client}`, `${sockets}/v${client}`]
      // One each: both listen for what is for the guest.
      const { near, far } = makeNamespaces(onEnd, String(client))
      const publish = ["-t", "none", "-u", GUEST_PORT]
      await startPasst(passt, { namespace: near, interface: NEAR_END, socket: stream, publish }, onEnd)
      const serve = pinned(server, process.execPath, SERVER, "stream", mine, stream)
      await startServer(inside(near, ...serve), mine, onEnd)
      const at = { namespace: far, interface: FAR_END, socket: own, publish }
      await startPasst(passt, at, onEnd, "--vhost-user")
      const run = async (socket, namespace, { args, figure, scale }, seconds = ROUND_SECONDS) => {
        const words = ["udp", socket, namespace, "-", ...args, seconds, String(client), String(client)]
        return JSON.parse(await output([frontEnd, ...words]))[figure] * scale
      }
      for (const one of WORKLOADS) await run(mine, near, one, WARM_UP_SECONDS)
      for (const one of WORKLOADS) {
        cases.push({
          ...{ name: `${one.name}, ${placement}`, unit: one.unit, better: one.better },
          ours: () => run(mine, near, one),
          peer: { name: "passt --vhost-user of Debian sid", measure: () => run(own, far, one) },
        })
      }
    }
    return cases
  },
}
