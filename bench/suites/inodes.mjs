// What a name costs through our vhost-user-fs back end must not depend on how many files are open in it: ten times as
// many beside the few, same program.
import { mkdirSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { compileFrontEnd } from "../frontend/compile.mjs"
import { goals } from "../harness.mjs"
import { output, PLACEMENTS, pinned, startServer } from "../process.mjs"
import { SharedMeasurement } from "../shared-measurement.mjs"

const OURS = fileURLToPath(new URL("../backends/serve-folder.mjs", import.meta.url))
const FEW = 1000
const MANY = 10_000
const OPERATIONS = ["create", "lookup"]

export default {
  name: "inodes",
  description: "vhost-user-fs back end with few and with many inodes",
  async prepare({ folder, onEnd }) {
    const frontEnd = await compileFrontEnd("fs_bench")
    const { server, client } = PLACEMENTS.at(-1)
    const [shared, socket] = [`${folder}/shared`, `${folder}/ours`]
    mkdirSync(shared)
    await startServer(pinned(server, process.execPath, OURS, shared, socket), socket, onEnd)
    const measured = count =>
      new SharedMeasurement(async () =>
        JSON.parse(await output(pinned(client, frontEnd, "names", socket, String(count)))),
      )
    const [few, many] = [measured(FEW), measured(MANY)]
    return OPERATIONS.map(operation => {
      const of = all => all[`${operation}Us`]
      return {
        name: `flat in inodes: ${operation}, each of ${MANY}`,
        unit: "µs",
        better: "lower",
        ours: () => many.figure(operation, of),
        peer: { name: `ours, each of ${FEW}`, measure: () => few.figure(operation, of) },
        goal: goals.ratioAtMost(1.3),
      }
    })
  },
}
