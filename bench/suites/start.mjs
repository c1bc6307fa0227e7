// `run IMAGE /bin/true` from the command's start to its exit, warm store: ours beside runsc and runc on the same rootfs.
import { goals } from "../harness.mjs"
import { wallMs } from "../process.mjs"
import { runtimes } from "../runtimes.mjs"

const PROGRAM = ["/bin/true"]
const UNIT = "ms"

export default {
  name: "start",
  description: "a container's whole life",
  async prepare({ folder }) {
    const { ours, peers } = await runtimes(folder)
    const base = { unit: UNIT, better: "lower", ours: () => wallMs(ours(PROGRAM)) }
    return peers.map(({ name, command, missing }) => ({
      ...base,
      name: `run /bin/true beside ${name}`,
      ...(command
        ? { peer: { name, measure: async () => wallMs(await command(PROGRAM)) } }
        : { missing: `${name}: ${missing}` }),
      goal: name === "runsc" ? goals.atMost(400, UNIT) : undefined,
    }))
  },
}
