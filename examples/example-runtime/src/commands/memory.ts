import { type MemoryReport, sandboxMemory } from "@ts-vmm/runtime"
import { printTable } from "../table.js"
import { size } from "../words.js"

const MIB = 1024 * 1024

/** `memory` */
export async function memory(
  sandbox: string,
  options: { size?: number; target?: number; reclaim?: boolean; json?: boolean },
): Promise<void> {
  const report = await sandboxMemory(sandbox, {
    ...(options.size === undefined ? {} : { sizeMiB: options.size }),
    ...(options.target === undefined ? {} : { targetMiB: options.target }),
    ...(options.reclaim ? { reclaim: true } : {}),
  })
  if (options.json) console.log(JSON.stringify(report))
  else printTable(["RAM", "TARGET", "USABLE", "FREE", "AVAILABLE", "CACHES", "RECLAIMED"], [toRow(report)])
}

function toRow({ sizeMiB, targetMiB, usableMiB, statistics, reclaimedBytes }: MemoryReport): string[] {
  const { freeBytes, availableBytes, cacheBytes } = statistics
  return [
    ...[sizeMiB, targetMiB, usableMiB].map(mib => size(mib * MIB)),
    ...[freeBytes, availableBytes, cacheBytes, reclaimedBytes].map(known),
  ]
}

/** What the guest does not say is not known. */
function known(bytes: number | undefined): string {
  return bytes === undefined ? "-" : size(bytes)
}
