// What one idle sandbox takes, counted by the kernel's memory control group: everything, and without the guest's own
// pages (which lie in shared memory, as do gVisor's). File pages are left out: every sandbox shares them.
import { spawn } from "node:child_process"
import { once } from "node:events"
import { setTimeout as delay } from "node:timers/promises"
import { MemoryGroup, whyNoMemoryGroup } from "../cgroup.mjs"
import { Skip } from "../harness.mjs"
import { runtimes } from "../runtimes.mjs"
import { SharedMeasurement } from "../shared-measurement.mjs"

const MIB = 1024 * 1024
const SETTLE_MS = 1500
/** Says when it runs, then waits. */
const PROGRAM = ["/bin/sh", "-c", "echo up; exec sleep 1000"]
const RAM = ["--memory", "128"]

async function untilUp(child) {
  let text = ""
  child.stderr.on("data", chunk => (text += chunk))
  for await (const chunk of child.stdout) {
    text += chunk
    if (text.includes("up")) return
  }
  throw new Error(`the container ended before it was up: ${text.trim()}`)
}

async function end(child, group) {
  child.kill("SIGTERM")
  const limit = Date.now() + 5000
  while (group.processes().length > 0) {
    if (Date.now() > limit) for (const pid of group.processes()) process.kill(pid, "SIGKILL")
    await delay(50)
  }
  group.remove()
}

/** Starts a container in a group of its own, lets it come to rest and reads what it takes. */
async function measure(commandLine, name) {
  const group = new MemoryGroup(name)
  const [command, ...args] = group.wrap(commandLine)
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] })
  const closed = once(child, "close")
  try {
    await untilUp(child)
    child.stdout.resume()
    await delay(SETTLE_MS)
    return group.read()
  } finally {
    await end(child, group)
    await closed
  }
}

const FIGURES = [
  { name: "beside guest pages (private and kernel memory)", of: ({ anon, kernel }) => (anon + kernel) / MIB },
  { name: "guest pages (shared memory)", of: ({ shmem }) => shmem / MIB },
  { name: "all together", of: ({ anon, kernel, shmem }) => (anon + kernel + shmem) / MIB },
]

export default {
  name: "idle",
  description: "memory of one idle sandbox with 128 MiB RAM",
  async prepare({ folder }) {
    const reason = whyNoMemoryGroup()
    if (reason) throw new Skip(reason)
    const { ours, peers } = await runtimes(folder)
    const [runsc] = peers
    let count = 0
    const name = () => `ts-vmm-bench-${process.pid}-${++count}`
    const ourSide = new SharedMeasurement(() => measure(ours(PROGRAM, RAM), name()))
    const peerSide = new SharedMeasurement(async () => measure(await runsc.command(PROGRAM), name()))
    return FIGURES.map(figure => ({
      name: figure.name,
      unit: "MiB",
      better: "lower",
      ours: () => ourSide.figure(figure.name, figure.of),
      ...(runsc.command
        ? { peer: { name: runsc.name, measure: () => peerSide.figure(figure.name, figure.of) } }
        : { missing: `${runsc.name}: ${runsc.missing}` }),
    }))
  },
}
