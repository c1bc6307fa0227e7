import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import { loadBzImage } from "./bzimage/load-bzimage.js"
import { loadInitrd } from "./initrd.js"
import { bytesImage } from "./kernel-image.js"
import type { LoadedKernel } from "./loaded-kernel.js"
import { bzImage } from "./testing/bzimage.js"
import { bytesAt, dirtyMemory, expectUntouched, MIB } from "./testing/memory.js"
import { refusedWith } from "./testing/refused.js"

const elf = (loadAddress: number, endAddress: number): LoadedKernel => ({
  format: "elf",
  loadAddress,
  endAddress,
  entry: loadAddress,
})
const initrd = (size: number) => bytesImage(new Uint8Array(size).fill(7))

/** Placing takes no bytes: an image of any size that nobody reads. */
const hugeImage = (size: number) => ({ size, read: () => undefined })

/** Regions of any size without their bytes. */
function sparseMemory(...regions: { start: number; size: number }[]) {
  const memory = arrayBufferMemory([{ start: 0, size: 4096 }])
  return {
    ...memory,
    regions: regions.map(region => ({ ...region, bytes: new Uint8Array() })),
    slices: () => [],
  } as unknown as typeof memory
}

describe("loadInitrd", () => {
  test("lies at the top of RAM, page aligned", () => {
    const memory = dirtyMemory(4 * MIB)
    expect(loadInitrd(memory, initrd(5000), elf(MIB, 2 * MIB))).toEqual({
      address: 4 * MIB - 8192,
      size: 5000,
    })
    expect(bytesAt(memory, 4 * MIB - 8192, 5000)).toEqual(new Uint8Array(5000).fill(7))
    expect(bytesAt(memory, 4 * MIB - 8192 + 5000, 1)).toEqual(Uint8Array.of(0xee))
  })

  test("may fill all that the kernel leaves", () => {
    const memory = dirtyMemory(4 * MIB)
    expect(loadInitrd(memory, initrd(2 * MIB), elf(MIB, 2 * MIB)).address).toBe(2 * MIB)
  })

  test("goes below the kernel when there is no room above", () => {
    const memory = dirtyMemory(4 * MIB)
    expect(loadInitrd(memory, initrd(MIB), elf(2 * MIB, 4 * MIB)).address).toBe(MIB)
  })

  test("stays below the initrd_addr_max of a bzImage", () => {
    const memory = dirtyMemory(32 * MIB)
    const image = bzImage({ pref_address: 2 * MIB, initrd_addr_max: 24 * MIB - 1 })
    const kernel = loadBzImage(memory, bytesImage(image))
    expect(loadInitrd(memory, initrd(5000), kernel).address).toBe(24 * MIB - 8192)
  })

  test("stays below 2 GiB for an ELF kernel, whatever RAM there is", () => {
    const memory = sparseMemory({ start: 0, size: 3 * 2 ** 30 }, { start: 2 ** 32, size: 2 ** 32 })
    expect(loadInitrd(memory, hugeImage(2 ** 20), elf(MIB, 2 * MIB)).address).toBe(2 ** 31 - MIB)
  })

  test("lies in the 32 GiB window of an arm64 kernel", () => {
    const memory = sparseMemory(
      { start: 2 ** 30, size: 2 ** 32 },
      { start: 2 ** 30 + 2 ** 32, size: 2 ** 32 },
    )
    const kernel: LoadedKernel = { ...elf(2 ** 30, 2 ** 30 + 32 * MIB), format: "arm64-image" }
    expect(loadInitrd(memory, hugeImage(MIB), kernel).address).toBe(2 ** 30 + 2 ** 33 - MIB)
    const beyond = sparseMemory({ start: 0, size: 2 ** 32 }, { start: 2 ** 35, size: 2 ** 32 })
    const low: LoadedKernel = { ...elf(0, 32 * MIB), format: "arm64-image" }
    expect(loadInitrd(beyond, hugeImage(MIB), low).address).toBe(2 ** 32 - MIB)
  })
})

describe("K5: initrds that cannot be loaded", () => {
  test.each([
    ["larger than RAM", 5 * MIB, elf(MIB, 2 * MIB)],
    ["larger than what the kernel leaves", 2 * MIB + 1, elf(MIB, 2 * MIB)],
    ["overlapping the kernel wherever it goes", MIB + 1, elf(2 * MIB, 3 * MIB)],
  ])("K5: %s", (_, size, kernel) => {
    const memory = dirtyMemory(4 * MIB)
    expect(refusedWith("initrd-no-room", () => loadInitrd(memory, initrd(size), kernel)).need).toBe(size)
    expectUntouched(memory)
  })

  test("K5: zero size", () => {
    refusedWith("initrd-empty", () => loadInitrd(dirtyMemory(4 * MIB), initrd(0), elf(MIB, 2 * MIB)))
  })

  test("K5: clear of the init_size of a bzImage", () => {
    const memory = dirtyMemory(8 * MIB)
    const image = bzImage({ pref_address: 2 * MIB, init_size: 6 * MIB })
    const kernel = loadBzImage(memory, bytesImage(image))
    expect(loadInitrd(memory, initrd(MIB), kernel).address).toBe(MIB)
    refusedWith("initrd-no-room", () => loadInitrd(memory, initrd(MIB + 1), kernel))
  })
})
