import { setTimeout as sleep } from "node:timers/promises"
import { SandboxError } from "../../errors.js"
import { type OwnerLock, takeOwnerLock } from "../../state/owner-lock.js"
import { type FoundSandbox, hasNetwork, pruneSandboxes } from "../../state/sandbox-directory.js"

/** Whoever looks whether an owner lives has its lock for a moment; who has it for longer gives the same back. */
const [LOCK_TRIES, LOCK_RETRY_MS] = [50, 20]

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
  const { removed, waiting } = pruneSandboxes(stateDir, options)
  if (waiting.length === 0) return [...removed]
  for (const one of waiting) await releaseDead(one).catch(onFailure)
  return [...removed, ...pruneSandboxes(stateDir, options).removed]
}

/**
 * As its owner, for that long, so that nobody else does the same.
 *
 * @throws SandboxError `network-failed`
 */
export async function releaseDead({ path }: Pick<FoundSandbox, "path">): Promise<void> {
  const lock = await lockOfDead(path)
  if (!lock) return
  try {
    const { releaseNetwork } = await import("./release.js")
    await releaseNetwork(path)
  } finally {
    lock.release()
  }
}

async function lockOfDead(path: string): Promise<OwnerLock | undefined> {
  for (let left = LOCK_TRIES; left > 0 && hasNetwork(path); left--) {
    const lock = takeOwnerLock(path)
    if (lock) return lock
    await sleep(LOCK_RETRY_MS)
  }
  return undefined
}

/**
 * The error of a start that failed, which says when something of the network is left.
 *
 * @param path - the sandbox's folder
 */
export function tellLeftNetwork(path: string, error: unknown): unknown {
  if (!hasNetwork(path)) return error
  const code = error instanceof SandboxError ? error.code : "network-failed"
  const message = `${(error as Error).message}; what its network still holds, prune tries to give back`
  return new SandboxError(code, message, { cause: error })
}
