import { statfsSync } from "node:fs"
import { constants } from "node:os"
import { SandboxError } from "../errors.js"

/** Below this a disk is full for all who write to it. */
const FULL_BYTES = 1024 * 1024

/**
 * The guest sees an I/O error; the reason, and what can be done, is only known here.
 *
 * @param folder - where the disk lies @param onFailure - told once
 * @returns what a block device tells of every write that failed
 */
export function reportWriteFailure(
  folder: string,
  onFailure: (error: SandboxError) => void,
): (errno: number) => void {
  let told = false
  return errno => {
    if (told) return
    told = true
    const name =
      Object.entries(constants.errno).find(([, number]) => number === errno)?.[0] ?? `error ${errno}`
    const lost = `what containers wrote to the sandbox's disk is lost (${name})`
    onFailure(
      isFull(folder, name)
        ? new SandboxError("no-space", `${lost}: the file system of ${folder} is full, free some space there`)
        : new SandboxError(
            "disk-failed",
            `${lost}: the file system of ${folder} fails, look into the host's log`,
          ),
    )
  }
}

function isFull(folder: string, name: string): boolean {
  if (name === "ENOSPC" || name === "EDQUOT") return true
  // The write that meets the end is cut short, which is no ENOSPC yet.
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize < FULL_BYTES
}
