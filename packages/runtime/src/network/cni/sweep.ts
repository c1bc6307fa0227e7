import { takeOwnerLock } from "../../state/owner-lock.js"
import {
  type FoundSandbox,
  findSandboxes,
  hasNetwork,
  pruneSandboxes,
} from "../../state/sandbox-directory.js"

/**
 * Removes what dead owners left, and gives back what these had of networks, one sandbox after the other. What cannot be given
 * back stays for the next one who tries.
 *
 * @param onFailure - told of each of these
 * @returns ids that were removed
 */
export async function pruneWithNetworks(
  stateDir: string,
  options: { finished: boolean },
  onFailure: (error: Error) => void,
): Promise<string[]> {
  // What takes no time does not wait for what may.
  const removed = pruneSandboxes(stateDir, options)
  const waiting = findSandboxes(stateDir).filter(one => !one.alive && hasNetwork(one.path))
  if (waiting.length === 0) return removed
  for (const one of waiting) await releaseDead(one).catch(onFailure)
  return [...removed, ...pruneSandboxes(stateDir, options)]
}

/**
 * As its owner, for that long, so that nobody else does the same.
 *
 * @throws SandboxError `network-failed`
 */
export async function releaseDead({ path }: Pick<FoundSandbox, "path">): Promise<void> {
  if (!hasNetwork(path)) return
  const lock = takeOwnerLock(path)
  if (!lock) return
  try {
    const { releaseNetwork } = await import("./release.js")
    await releaseNetwork(path)
  } finally {
    lock.release()
  }
}
