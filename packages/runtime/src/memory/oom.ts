import type { AgentClient } from "@ts-vmm/guest"
import type { GuestError } from "@ts-vmm/guest/artifacts"

/**
 * Tells of every container of which the guest's kernel killed a process for want of memory. One question is always open;
 * its answer is an event, and the end of the connection the end of the watch.
 *
 * @throws GuestError when the agent cannot say
 */
export async function watchOom(agent: AgentClient, onOom: (containerId: string) => void): Promise<void> {
  try {
    for (;;) onOom(await agent.getOomEvent())
  } catch (error) {
    if ((error as GuestError).code !== "closed") throw error
  }
}
