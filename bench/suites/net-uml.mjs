// iperf3 into a guest on User Mode Linux, over a tap device, beside a plain veth pair between two namespaces. The same
// client asks a server in the guest, or in the other namespace; nothing leaves the namespaces that the bench makes.
import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import { copyFileSync, mkdirSync } from "node:fs"
import { dirname } from "node:path"
import { setTimeout as delay } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { goals, Skip } from "../harness.mjs"
import { FAR, GUEST, inside, makeNamespaces, TAP } from "../namespaces.mjs"
import { output, which } from "../process.mjs"

const CLI = fileURLToPath(new URL("../../examples/example-runtime/dist/main.js", import.meta.url))
const PORT = "5201"
const SECONDS = "2"
const START_LIMIT_MS = 60_000

const WORKLOADS = [
  { name: "TCP to the guest", args: [], unit: "MB/s", figure: end => end.sum_received.bits_per_second / 8e6 },
  {
    name: "TCP from the guest",
    args: ["-R"],
    unit: "MB/s",
    figure: end => end.sum_received.bits_per_second / 8e6,
  },
  {
    name: "UDP of 64 bytes to the guest, arrived",
    args: ["-u", "-b", "0", "-l", "64"],
    unit: "packets/s",
    figure: ({ sum }) => (sum.packets - sum.lost_packets) / sum.seconds,
  },
]

/** A root with iperf3 and the libraries that it is linked with. */
function makeRoot(folder, iperf3) {
  const root = `${folder}/root`
  const libraries = execFileSync("ldd", [iperf3], { encoding: "utf8" }).match(/\/\S+(?= \()/g) ?? []
  for (const file of [iperf3, ...libraries]) {
    mkdirSync(`${root}${dirname(file)}`, { recursive: true })
    copyFileSync(file, `${root}${file}`)
  }
  for (const name of ["proc", "sys", "dev", "tmp"]) mkdirSync(`${root}/${name}`, { recursive: true })
  return root
}

/** Starts what ends with the bench. */
function startChild([command, ...args], env, onEnd) {
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, ...env } })
  child.said = ""
  child.stderr.on("data", chunk => (child.said += chunk))
  onEnd(async () => {
    if (child.exitCode === null && child.signalCode === null && child.kill()) await once(child, "close")
  })
  return child
}

/** What one run of the client comes to; it says in its answer what went wrong, and not by its exit code. */
async function ask(near, address, args) {
  const line = inside(near, "iperf3", "-c", address, "-p", PORT, "-J", "--connect-timeout", "2000", ...args)
  const { error, end } = JSON.parse(await output(line))
  if (error) throw new Error(`iperf3 to ${address}: ${error}`)
  return end
}

const measure = async (near, address, { args, figure }) =>
  figure(await ask(near, address, ["-t", SECONDS, ...args]))

/** Until the server in the guest answers. */
async function untilUp(child, near, address) {
  const limit = Date.now() + START_LIMIT_MS
  for (;;) {
    try {
      await ask(near, address, ["-n", "1K"])
      return
    } catch (error) {
      if (child.exitCode !== null) throw new Error(`the guest ended at its start: ${child.said.trim()}`)
      if (Date.now() > limit) throw error
      await delay(200)
    }
  }
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
      ...["--rootfs", root, iperf3, "-s", "-p", PORT],
    ]
    const tap = ["--network", `tap:${TAP}`, "--ip", `${GUEST}/24`]
    startChild(inside(far, "iperf3", "-s", "-p", PORT), {}, onEnd)
    await untilUp(startChild(sandbox(...tap), env, onEnd), near, GUEST)
    return WORKLOADS.map(workload => ({
      name: `${workload.name}, tap`,
      unit: workload.unit,
      better: "higher",
      ours: () => measure(near, GUEST, workload),
      peer: { name: "veth pair", measure: () => measure(near, FAR, workload) },
      goal: goals.ratioAtLeast(0.8),
    }))
  },
}
