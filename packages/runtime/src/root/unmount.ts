import type { BootedGuest } from "../boot.js"
import { withDeadline } from "../deadline.js"
import { fromGuestError } from "../guest-errors.js"

/** How long a guest may take to write back what its programs wrote, unless it may take longer for an answer. */
const UNMOUNT_TIMEOUT_MS = 10_000

/**
 * Ends a guest that writes to file systems of the host such that nothing is lost and nothing has to be repaired: its
 * containers go, with the last of them a root is unmounted, then disks are, and the guest powers off.
 *
 * @param answerMs - how long the guest may take for an answer, where that was said
 * @throws SandboxError `timeout`, `guest-died`, `agent-failed`: what was written last may not have reached the host
 */
export async function unmount(
  { agent, machine }: BootedGuest,
  containerIds: readonly string[],
  answerMs = 0,
): Promise<void> {
  // One that was removed already is none; an agent that is gone says so at the next call.
  const remove = (containerId: string) => agent.removeContainer({ containerId }).catch(() => undefined)
  const ending = Promise.all(containerIds.map(remove))
    .then(() => agent.destroySandbox())
    .then(() => machine.exited)
  try {
    await withDeadline(ending, "writing back to the file systems of the host", {
      timeoutMs: Math.max(UNMOUNT_TIMEOUT_MS, answerMs),
    })
  } catch (error) {
    throw fromGuestError(error)
  }
}
