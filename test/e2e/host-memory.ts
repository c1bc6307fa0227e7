import { readdirSync, readlinkSync, statSync } from "node:fs"

/**
 * Bytes of host memory that a guest's RAM takes, whichever process holds the file it is in.
 *
 * @param pid - of its machine
 * @param least - bytes of the file
 * @param most - likewise
 */
export function hostBytes(pid: number, least: number, most = Number.POSITIVE_INFINITY): number {
  for (const owner of [pid, process.pid]) {
    for (const fd of readdirSync(`/proc/${owner}/fd`)) {
      const path = `/proc/${owner}/fd/${fd}`
      try {
        if (!/^\/(memfd:|dev\/shm\/)/.test(readlinkSync(path))) continue
        const { size, blocks } = statSync(path)
        if (size >= least && size <= most) return blocks * 512
      } catch {
        // It was closed meanwhile.
      }
    }
  }
  throw new Error("the guest's RAM is in no file")
}
