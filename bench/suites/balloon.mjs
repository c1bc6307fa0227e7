// What the host has again of the memory that a program of a guest freed: when it is asked back by the balloon, and when it
// is left to the guest's kernel, which begins to report free pages two seconds after the first of them.
import { readdirSync, readlinkSync, statSync } from "node:fs"
import { setTimeout as delay } from "node:timers/promises"
import { localImage } from "../../scripts/images/index.mjs"
import { ROOT } from "../../scripts/setup/paths.mjs"
import { goals } from "../harness.mjs"

const MIB = 2 ** 20
const RAM_MIB = 512
const WRITTEN_MIB = 320
const LOOK_MS = 20

/** Bytes of host memory that the guest's RAM takes: the machine, or this process, has the file that it is in. */
function hostBytes(pid) {
  for (const owner of [pid, process.pid]) {
    for (const fd of readdirSync(`/proc/${owner}/fd`)) {
      const path = `/proc/${owner}/fd/${fd}`
      try {
        if (!/^\/(memfd:|dev\/shm\/)/.test(readlinkSync(path))) continue
        const { size, blocks } = statSync(path)
        if (size >= (RAM_MIB - 16) * MIB) return blocks * 512
      } catch {
        // Closed meanwhile.
      }
    }
  }
  throw new Error("the guest's RAM is in no file")
}

/** Per cent that the host has after so long of what a program freed; earlier when it is all of it. */
async function partBack(sandbox, ms, askBack) {
  await sandbox.shell(`dd if=/dev/zero of=/all bs=1M count=${WRITTEN_MIB}`, { check: true })
  const full = hostBytes(sandbox.pid)
  await sandbox.shell("rm /all", { check: true })
  const limit = performance.now() + ms
  const asked = askBack?.()
  const part = () => (100 * (full - hostBytes(sandbox.pid))) / (WRITTEN_MIB * MIB)
  while (performance.now() < limit && part() < 100) await delay(LOOK_MS)
  const back = part()
  await asked
  return back
}

export default {
  name: "balloon",
  description: "memory that a guest (User Mode Linux) freed, back at the host",
  async prepare({ folder, onEnd }) {
    const { Sandbox } = await import(`${ROOT}/packages/runtime/dist/index.js`)
    const sandbox = await Sandbox.create({
      image: `oci:${await localImage("busybox")}`,
      hypervisor: "uml",
      memoryMiB: RAM_MIB,
      paths: { stateDir: `${folder}/state`, imageDir: `${folder}/images` },
    })
    onEnd(() => sandbox.destroy())
    const name = how => `${WRITTEN_MIB} MiB that were freed, back after ${how}`
    const shared = { unit: "%", better: "higher" }
    return [
      {
        ...{ name: name("2 s, asked for"), ...shared, goal: goals.atLeast(90, "%") },
        ours: () => partBack(sandbox, 2000, () => sandbox.memory.reclaim()),
      },
      { ...{ name: name("2 s, by itself"), ...shared }, ours: () => partBack(sandbox, 2000) },
      { ...{ name: name("5 s, by itself"), ...shared }, ours: () => partBack(sandbox, 5000) },
    ]
  },
}
