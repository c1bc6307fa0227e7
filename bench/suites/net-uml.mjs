// iperf3 into a guest on User Mode Linux, over a tap device, beside a plain veth pair between two namespaces. The same
// client asks a server in the guest, or in the other namespace; nothing leaves the namespaces that the bench makes.
import { mkdirSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { goals, Skip } from "../harness.mjs"
import {
  copyIperf3,
  IPERF3_PORT,
  IPERF3_WORKLOADS,
  measureIperf3,
  startChild,
  untilIperf3,
} from "../iperf3.mjs"
import { FAR, GUEST, inside, makeNamespaces, TAP } from "../namespaces.mjs"
import { which } from "../process.mjs"

const CLI = fileURLToPath(new URL("../../examples/example-runtime/dist/main.js", import.meta.url))
const START_LIMIT_MS = 60_000

/** A root with iperf3. */
function makeRoot(folder, iperf3) {
  const root = `${folder}/root`
  copyIperf3(root, iperf3)
  for (const name of ["proc", "sys", "dev", "tmp"]) mkdirSync(`${root}/${name}`, { recursive: true })
  return root
}

export default {
  name: "net-uml",
  description: "iperf3 to and from a guest on a tap device",
  async prepare({ folder, onEnd }) {
    const iperf3 = which("iperf3")
    if (!iperf3) throw new Skip("iperf3 is not installed")
    const { near, far } = makeNamespaces(onEnd)
    const root = makeRoot(folder, iperf3)
    const env = { TS_VMM_STATE_DIR: `${folder}/state`, TS_VMM_IMAGE_DIR: `${folder}/images` }
    const sandbox = (...args) => [
      ...inside(near, process.execPath, CLI, "run", "--rm", "--hypervisor", "uml", ...args),
      ...["--rootfs", root, iperf3, "-s", "-p", IPERF3_PORT],
    ]
    const tap = ["--network", `tap:${TAP}`, "--ip", `${GUEST}/24`]
    startChild(inside(far, "iperf3", "-s", "-p", IPERF3_PORT), {}, onEnd)
    await untilIperf3(startChild(sandbox(...tap), env, onEnd), near, GUEST, START_LIMIT_MS)
    return IPERF3_WORKLOADS.map(workload => ({
      name: `${workload.name}, tap`,
      unit: workload.unit,
      better: "higher",
      ours: () => measureIperf3(near, GUEST, workload),
      peer: { name: "veth pair", measure: () => measureIperf3(near, FAR, workload) },
      goal: goals.ratioAtLeast(0.8),
    }))
  },
}
