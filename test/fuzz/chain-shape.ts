import { ok, strictEqual } from "node:assert"
import type { DescriptorChain } from "@ts-vmm/virtio-devices"
import type { GuestMemory } from "@ts-vmm/vm-memory"

/** A chain as text, after it was held against memory. */
export function checkedShape(chain: DescriptorChain, memory: GuestMemory): string {
  let readable = 0
  let writable = 0
  const parts: string[] = []
  for (let i = 0; i < chain.segmentCount; i++) {
    const [at, length] = [chain.segmentAddress(i), chain.segmentLengths[i]!]
    ok(length > 0, "empty segment")
    ok(memory.find(at, length) !== undefined, "segment outside memory")
    if (i < chain.readableCount) readable += length
    else writable += length
    parts.push(`${at}+${length}`)
  }
  strictEqual(chain.readableLength, readable)
  strictEqual(chain.writableLength, writable)
  return `${parts.join(" ")} / ${chain.readableCount}`
}
