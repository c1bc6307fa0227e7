// `run IMAGE /bin/true` from the command's start to its exit, warm store: ours beside runsc and runc on the same rootfs.
import { goals } from "../harness.mjs"
import { complete, wallMs } from "../process.mjs"
import { runtimes } from "../runtimes.mjs"
import { SharedMeasurement } from "../shared-measurement.mjs"

const PROGRAM = ["/bin/true"]

/** The runtime's own account of a run: one line of JSON on stderr. */
function timingsOf(stderr) {
  const line = stderr.split("\n").find(text => text.startsWith("{"))
  return JSON.parse(line ?? "{}").timings ?? {}
}

export default {
  name: "start",
  description: "a container's whole life",
  async prepare({ folder }) {
    const { ours, peers } = await runtimes(folder)
    const measure = mode =>
      new SharedMeasurement(() => complete(ours(PROGRAM, ["--json", "--uml-mode", mode])))
    const shared = measure("ptrace")
    const trusted = measure("seccomp")
    const beside = peers.map(({ name, command, missing }, index) => ({
      name: `run /bin/true (ptrace), beside ${name}`,
      unit: "ms",
      better: "lower",
      ours: () => shared.figure(name, measured => measured.wallMs),
      ...(command
        ? { peer: { name, measure: async () => wallMs(await command(PROGRAM)) } }
        : { missing: `${name}: ${missing}` }),
      ...(index === 0 && { goal: goals.atMost(400, "ms") }),
    }))
    const ready = {
      name: "of it until the agent answers (ptrace)",
      unit: "ms",
      better: "lower",
      ours: () => shared.figure("ready", ({ stderr }) => timingsOf(stderr).readyMs ?? Number.NaN),
      goal: goals.atMost(200, "ms"),
    }
    const seccomp = {
      name: "run /bin/true (seccomp: trusted workloads only)",
      unit: "ms",
      better: "lower",
      ours: () => trusted.figure("seccomp", measured => measured.wallMs),
    }
    return [...beside, ready, seccomp]
  },
}
