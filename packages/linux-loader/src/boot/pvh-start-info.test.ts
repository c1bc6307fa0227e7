import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import { Cmdline } from "../cmdline.js"
import { bytesAt, dirtyMemory, expectUntouched, MIB } from "../testing/memory.js"
import { refusedWith } from "../testing/refused.js"
import { defaultMemoryMap, type MemoryMapEntry } from "./memory-map.js"
import { writePvhStartInfo } from "./pvh-start-info.js"

const cmdline = new Cmdline("console=hvc0")

describe("writePvhStartInfo", () => {
  test("writes version 1 with module list and memory map", () => {
    const memory = dirtyMemory(4 * MIB)
    const at = writePvhStartInfo(memory, {
      cmdline,
      initrd: { address: 3 * MIB, size: 0x1234 },
      memoryMap: defaultMemoryMap(memory),
      rsdpAddress: 0xe0000,
    })
    expect(at).toBe(0x6000)
    const page = new DataView(bytesAt(memory, at, 4096).buffer)
    expect([0, 4, 8, 12].map(offset => page.getUint32(offset, true))).toEqual([0x336ec578, 1, 0, 1])
    const [modlist, cmdlineAt, rsdp, memmap] = [16, 24, 32, 40].map(offset =>
      Number(page.getBigUint64(offset, true)),
    )
    expect(rsdp).toBe(0xe0000)
    expect(bytesAt(memory, cmdlineAt!, 13)).toEqual(Uint8Array.from(Buffer.from("console=hvc0\0")))
    expect(page.getBigUint64(modlist! - at, true)).toBe(BigInt(3 * MIB))
    expect(page.getBigUint64(modlist! - at + 8, true)).toBe(0x1234n)
    expect(page.getUint32(48, true)).toBe(4)
    const last = memmap! - at + 3 * 24
    expect(page.getBigUint64(last, true)).toBe(BigInt(MIB))
    expect(page.getBigUint64(last + 8, true)).toBe(BigInt(3 * MIB))
    expect(page.getUint32(last + 16, true)).toBe(1)
  })

  test("has no module list without an initrd", () => {
    const memory = dirtyMemory(4 * MIB)
    const at = writePvhStartInfo(memory, { cmdline, memoryMap: defaultMemoryMap(memory) })
    const page = new DataView(bytesAt(memory, at, 64).buffer)
    expect(page.getUint32(12, true)).toBe(0)
    expect(page.getBigUint64(16, true)).toBe(0n)
    expect(page.getBigUint64(32, true)).toBe(0n)
  })

  test("has room for the longest memory map in its page", () => {
    const memory = dirtyMemory(4 * MIB)
    const memoryMap = Array.from(
      { length: 128 },
      (_, i): MemoryMapEntry => ({ start: i * MIB, size: MIB, type: 1 }),
    )
    writePvhStartInfo(memory, { cmdline, memoryMap })
    expect(bytesAt(memory, 0x7000, 1)).toEqual(Uint8Array.of(0xee))
    const last = new DataView(bytesAt(memory, 0x6060 + 127 * 24, 24).buffer)
    expect(last.getBigUint64(0, true)).toBe(BigInt(127 * MIB))
  })

  test("writes nothing when it refuses", () => {
    const memory = dirtyMemory(4 * MIB)
    refusedWith("memory-map", () => writePvhStartInfo(memory, { cmdline, memoryMap: [] }))
    const memoryMap = defaultMemoryMap(memory)
    const long = new Cmdline("x".repeat(5000), { maxSize: 8192 })
    refusedWith("table-no-room", () => writePvhStartInfo(memory, { cmdline: long, memoryMap }))
    expectUntouched(memory)
    const high = arrayBufferMemory([{ start: MIB, size: MIB }])
    refusedWith("table-no-room", () => writePvhStartInfo(high, { cmdline, memoryMap }))
  })
})
