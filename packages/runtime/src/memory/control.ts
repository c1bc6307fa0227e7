import type { BalloonStatistics } from "@ts-vmm/virtio-devices/balloon"
import type { MemorySizes, SandboxMemory } from "./sandbox-memory.js"

/** What is to be done with a sandbox's memory before it is told of. */
export interface MemoryChange {
  /** As `SandboxMemory.resize`. */
  readonly sizeMiB?: number
  /** As `SandboxMemory.setTarget`. */
  readonly targetMiB?: number
  /** As `SandboxMemory.reclaim`. */
  readonly reclaim?: boolean
}

/** A sandbox's memory, as its owner tells other processes of it. */
export interface MemoryReport extends MemorySizes {
  /** The guest's own word. */
  readonly statistics: BalloonStatistics
  /** Bytes that the guest gave for `reclaim`. */
  readonly reclaimedBytes?: number
}

/** Does what another process asks. @throws SandboxError as `SandboxMemory` */
export async function changeMemory(memory: SandboxMemory, change: MemoryChange): Promise<MemoryReport> {
  if (change.sizeMiB !== undefined) await memory.resize(change.sizeMiB)
  if (change.targetMiB !== undefined) memory.setTarget(change.targetMiB)
  const reclaimed = change.reclaim ? { reclaimedBytes: await memory.reclaim() } : {}
  const statistics = await memory.statistics()
  const { sizeMiB, maxMiB, targetMiB, usableMiB } = memory
  return { sizeMiB, maxMiB, targetMiB, usableMiB, statistics, ...reclaimed }
}
