// What one more idle machine costs beside the pages of its guest: the control group's private and kernel memory of a
// process with 1, 10 and 50 machines. The guests wait in a shell.
import { spawn } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { setTimeout as delay } from "node:timers/promises"
import { ROOT } from "../../scripts/setup/paths.mjs"
import { MemoryGroup, whyNoMemoryGroup } from "../cgroup.mjs"
import { goals, Skip } from "../harness.mjs"
import { bundle } from "../kvm/bundle.mjs"
import { requireKvm } from "../kvm/require-kvm.mjs"
import { writeWaitingInitramfs } from "../kvm/waiting-initramfs.mjs"
import { SharedMeasurement } from "../shared-measurement.mjs"

const MB = 1e6
const SETTLE_MS = 2000
const KERNEL = `${ROOT}/packages/guest/build/kernels/linux-kvm-x86_64`
const COUNTS = [1, 10, 50]

/** Bytes beside guest pages for each of COUNTS. */
async function measure(program, initramfs, name) {
  const group = new MemoryGroup(name)
  const args = [KERNEL, initramfs.path, initramfs.word, ...COUNTS.map(String)]
  const [command, ...rest] = group.wrap([process.execPath, "--expose-gc", program, ...args])
  const child = spawn(command, rest, { stdio: ["pipe", "pipe", "inherit"] })
  const closed = once(child, "close")
  const beside = []
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      await delay(SETTLE_MS)
      const { anon, kernel } = group.read()
      beside.push({ ...JSON.parse(line), bytes: anon + kernel })
      child.stdin.write("next\n")
    }
    return beside
  } finally {
    child.kill("SIGKILL")
    await closed
    group.remove()
  }
}

/** What each machine between the counts `from` and `to` added. */
const each = (beside, from, to) => (beside[to].bytes - beside[from].bytes) / (COUNTS[to] - COUNTS[from]) / MB

export default {
  name: "kvm-memory",
  description: "what one more idle machine costs beside its guest's pages",
  async prepare({ folder }) {
    await requireKvm()
    const reason = whyNoMemoryGroup()
    if (reason) throw new Skip(reason)
    const program = await bundle("idle-machines", folder)
    const initramfs = await writeWaitingInitramfs(folder)
    let count = 0
    const shared = new SharedMeasurement(() =>
      measure(program, initramfs, `ts-vmm-bench-kvm-${process.pid}-${++count}`),
    )
    const figure = (name, of, goal) => ({
      name,
      unit: "MB",
      better: "lower",
      ours: () => shared.figure(name, of),
      ...(goal && { goal }),
    })
    return [
      figure("each from 1 to 10 machines", beside => each(beside, 0, 1), goals.atMost(2.5, "MB")),
      figure("each from 10 to 50 machines", beside => each(beside, 1, 2), goals.atMost(2.5, "MB")),
      figure("the process with 1 machine", beside => beside[0].bytes / MB),
    ]
  },
}
