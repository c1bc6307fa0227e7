// One stream between a guest's driver, played by a C program over vhost-user, and a Node stream on the host; beside a
// plain AF_UNIX stream between the same C program and the same Node consumer.
import { fileURLToPath } from "node:url"
import { compileFrontEnd } from "../frontend/compile.mjs"
import { goals } from "../harness.mjs"
import { output, PLACEMENTS, pinned, startServer } from "../process.mjs"

const SERVER = fileURLToPath(new URL("../backends/serve-vsock.mjs", import.meta.url))
const ROUND_SECONDS = "0.7"
const MB = 1e6

const DIRECTIONS = [
  { name: "guest to host", verb: "send" },
  { name: "host to guest", verb: "receive" },
]

export default {
  name: "vsock",
  description: "one stream, no guest",
  async prepare({ folder, onEnd }) {
    const frontEnd = await compileFrontEnd("vsock_bench")
    const cases = []
    for (const { name: placement, server, client } of PLACEMENTS) {
      const socketOf = kind => `${folder}/${kind}-${server}${client}`
      for (const kind of ["device", "unix"]) {
        await startServer(
          pinned(server, process.execPath, SERVER, kind, socketOf(kind)),
          socketOf(kind),
          onEnd,
        )
      }
      const measure = async (kind, verb) => {
        const line = await output(pinned(client, frontEnd, kind, socketOf(kind), verb, ROUND_SECONDS))
        return JSON.parse(line).bytesPerSecond / MB
      }
      for (const { name, verb } of DIRECTIONS) {
        cases.push({
          name: `stream, ${name}, ${placement}`,
          unit: "MB/s",
          better: "higher",
          ours: () => measure("device", verb),
          peer: { name: "AF_UNIX stream", measure: () => measure("unix", verb) },
          goal: goals.ratioAtLeast(0.5),
        })
      }
    }
    return cases
  },
}
