import { type ArrayBufferMemory, arrayBufferMemory } from "@ts-vmm/vm-memory"
import { expect } from "vitest"

export const MIB = 2 ** 20

/** Guest memory in which every byte was written by nobody we know. */
export function dirtyMemory(size = 64 * MIB): ArrayBufferMemory {
  const memory = arrayBufferMemory([{ start: 0, size }])
  memory.regions[0]!.bytes.fill(0xee)
  return memory
}

/** Fails when any byte of `dirtyMemory` was written. */
export function expectUntouched(memory: ArrayBufferMemory): void {
  for (const { bytes } of memory.regions) {
    expect(bytes[0]).toBe(0xee)
    // All bytes are the same when each equals its neighbour: one memcmp.
    expect(Buffer.compare(bytes.subarray(1), bytes.subarray(0, -1))).toBe(0)
  }
}

/** A copy of guest bytes. */
export function bytesAt(memory: ArrayBufferMemory, at: number, size: number): Uint8Array {
  const bytes = new Uint8Array(size)
  memory.read(at, bytes)
  return bytes
}
