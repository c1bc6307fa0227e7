// One million chains of three descriptors popped, checked, walked and completed: ours beside the same loop in C.
import { fileURLToPath } from "node:url"
import { compileFrontEnd } from "../frontend/compile.mjs"
import { goals } from "../harness.mjs"
import { output } from "../process.mjs"

const OURS = fileURLToPath(new URL("../backends/queue-loop.mjs", import.meta.url))
const CHAINS = "1000000"

const nsPerChain = async commandLine => JSON.parse(await output(commandLine)).nsPerChain

export default {
  name: "queue",
  description: "a split ring's chains without a device",
  async prepare() {
    const inC = await compileFrontEnd("queue_loop")
    return [
      {
        name: "3-descriptor chain, every check",
        unit: "ns",
        better: "lower",
        ours: () => nsPerChain([process.execPath, OURS, CHAINS]),
        peer: { name: "the same loop in C", measure: () => nsPerChain([inC, CHAINS]) },
        goal: goals.atMost(40, "ns"),
      },
    ]
  },
}
