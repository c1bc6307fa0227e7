import { describe, expect, test } from "vitest"
import { createGuestRam } from "./guest-ram.js"

const MIB = 2 ** 20

type Slot = Parameters<Parameters<typeof createGuestRam>[0]["setUserMemoryRegion"]>[0]

/** A VM that keeps what it was told. */
function recordingVm() {
  const slots: Slot[] = []
  return { slots, setUserMemoryRegion: (slot: Slot) => void slots.push(slot) }
}

describe("guest RAM", () => {
  test("is memory of this process alone, unless it is to be shared", () => {
    using own = createGuestRam(recordingVm(), 128 * MIB)
    using shared = createGuestRam(recordingVm(), 128 * MIB, { shared: true })
    expect(own.mappings.map(mapping => mapping.fd)).toEqual([-1])
    expect(shared.mappings.every(mapping => mapping.fd >= 0)).toBe(true)
  })

  test("has a slot for each region, around the gap below 4 GiB", () => {
    const vm = recordingVm()
    using memory = createGuestRam(vm, 6144 * MIB)
    expect(vm.slots.map(({ slot, guestAddress, size }) => [slot, Number(guestAddress), size])).toEqual([
      [0, 0, 3072 * MIB],
      [1, 4096 * MIB, 3072 * MIB],
    ])
    expect(vm.slots.map(slot => slot.hostAddress)).toEqual(memory.mappings.map(one => one.hostAddress))
  })

  test("a VM that refuses a slot leaves nothing mapped", () => {
    const refusal = new Error("no")
    const refuses = () => {
      throw refusal
    }
    expect(() => createGuestRam({ setUserMemoryRegion: refuses }, 128 * MIB)).toThrow(refusal)
  })
})
