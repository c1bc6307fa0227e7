import type { AgentClient } from "@ts-vmm/guest"
import type { GuestError } from "@ts-vmm/guest/artifacts"

/** Who is told. */
export interface MemoryEvents {
  /** The guest's kernel killed a program of this container for want of memory. */
  oom(containerId: string): void
  failed(error: unknown): void
}

/** One question is always open; its answer is an event, and the end of the connection the end of the watch. */
export async function watchMemory(agent: AgentClient, told: MemoryEvents): Promise<void> {
  try {
    for (;;) told.oom(await agent.getOomEvent())
  } catch (error) {
    if ((error as GuestError).code !== "closed") told.failed(error)
  }
}
