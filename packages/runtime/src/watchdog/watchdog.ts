import type { AgentClient } from "@ts-vmm/guest"
import type { GuestError } from "@ts-vmm/guest/artifacts"
import type { SandboxEmitter } from "../events.js"

/** A clock that goes off after so many times its time did so because this process, or all of the host, stood still. */
const MOST_LATE = 1.5

/**
 * Asks a guest again and again whether it is there: one question at a time, the next one half of `limitMs` after an answer.
 * A guest whose kernel hangs, or whose agent does, answers none; how busy its programs are does not matter. Where it was this
 * process that stood still, nobody can tell, and the guest is asked anew. Ends when the connection does.
 *
 * @param limitMs - how long an answer may take; nothing is asked without it
 * @param sandbox - whose events tell of it
 * @throws GuestError when the agent answers nonsense
 */
export async function watchGuest(
  agent: Pick<AgentClient, "check">,
  limitMs: number | undefined,
  sandbox: Pick<InstanceType<typeof SandboxEmitter>, "emit">,
): Promise<void> {
  if (limitMs === undefined) return
  for (let answeredAt = performance.now(), silent = false; ; ) {
    const answer = await ask(agent, limitMs)
    if (answer === "closed") return
    if (answer === "unknown") continue
    if (answer === "none") {
      if (!silent) sandbox.emit("unresponsive", Math.round(performance.now() - answeredAt))
      silent = true
      continue
    }
    answeredAt = performance.now()
    if (silent) sandbox.emit("responsive")
    silent = false
    await pause(limitMs / 2)
  }
}

async function ask(
  agent: Pick<AgentClient, "check">,
  timeoutMs: number,
): Promise<"some" | "none" | "closed" | "unknown"> {
  const askedAt = performance.now()
  try {
    await agent.check({ timeoutMs })
    return "some"
  } catch (error) {
    const { code } = error as GuestError
    if (code === "timeout") return performance.now() - askedAt > MOST_LATE * timeoutMs ? "unknown" : "none"
    if (code === "closed") return "closed"
    throw error
  }
}

/** It alone keeps no program alive. */
function pause(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms).unref())
}
