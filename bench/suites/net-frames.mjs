// Frames between a guest's network card, whose driver is played by a C program over vhost-user, and the host, through a
// tap device; beside a plain veth pair between the same C program's ends. No guest, and no TCP: frames of 64 KiB that are
// yet to be cut up are what TCP sends where it can, and small ones are counted.
import { fileURLToPath } from "node:url"
import { compileFrontEnd } from "../frontend/compile.mjs"
import { goals } from "../harness.mjs"
import { addTap, FAR_END, inside, makeNamespaces, NEAR_END } from "../namespaces.mjs"
import { output, PLACEMENTS, pinned, startServer } from "../process.mjs"

const SERVER = fileURLToPath(new URL("../backends/serve-net.mjs", import.meta.url))
const ROUND_SECONDS = "0.7"
const WARM_UP_SECONDS = "2"
/** With its header in 16 buffers of 4 KiB exactly. */
const LARGE = "65524"
const SMALL = "64"

const bulk = (name, verb) => ({
  ...{ name: `64 KiB frames, ${name}`, args: [verb, LARGE], figure: "bytesPerSecond", scale: 1e-6 },
  ...{ unit: "MB/s", better: "higher", goal: goals.ratioAtLeast(0.8) },
})
const small = (name, verb) => ({
  ...{ name: `64 byte frames, ${name}`, args: [verb, SMALL], figure: "framesPerSecond", scale: 1 },
  ...{ unit: "frames/s", better: "higher", goal: goals.ratioAtLeast(0.8) },
})
const WORKLOADS = [
  bulk("guest to host", "send"),
  bulk("host to guest", "receive"),
  small("guest to host", "send"),
  small("host to guest", "receive"),
  {
    ...{ name: "64 byte frame there and back", args: ["echo", SMALL], figure: "medianUs", scale: 1 },
    ...{ unit: "µs", better: "lower" },
  },
]

export default {
  name: "net-frames",
  description: "network card without a guest, on a tap device",
  async prepare({ folder, onEnd }) {
    const frontEnd = await compileFrontEnd("net_bench")
    const { near, far } = makeNamespaces(onEnd)
    const run = async (ends, { args, figure, scale }, cpus, seconds = ROUND_SECONDS) => {
      const words = [...ends, ...args, seconds, ...cpus.map(String)]
      return JSON.parse(await output([frontEnd, ...words]))[figure] * scale
    }
    const cases = []
    for (const { name: placement, server, client } of PLACEMENTS) {
      const [socket, tap] = [`${folder}/s${client}`, `tap-${client}`]
      addTap(near, tap)
      const serve = pinned(server, process.execPath, SERVER, "tap", socket, tap)
      await startServer(inside(near, ...serve), socket, onEnd)
      // On two CPUs both of our ends have the one, and the device, which does the sending, the other; the ends of the
      // veth pair do it themselves and have one each.
      const ours = (workload, seconds) =>
        run(["device", socket, near, tap], workload, [client, client], seconds)
      const veth = workload => run(["veth", near, NEAR_END, far, FAR_END], workload, [server, client])
      for (const workload of WORKLOADS) await ours(workload, WARM_UP_SECONDS)
      for (const workload of WORKLOADS) {
        cases.push({
          ...{ name: `${workload.name}, ${placement}`, unit: workload.unit, better: workload.better },
          ours: () => ours(workload),
          peer: { name: "veth pair", measure: () => veth(workload) },
          goal: workload.goal,
        })
      }
    }
    return cases
  },
}
