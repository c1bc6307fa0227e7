import { Mapping } from "@ts-vmm/native"
import { describe, expect, test } from "vitest"
import { MemoryError } from "./errors.js"
import { mappingMemory, mmapMemory } from "./mmap.js"

describe("mmapMemory", () => {
  test("gives zeroed regions with an fd and a host address each", () => {
    using memory = mmapMemory([
      { start: 2 ** 32, size: 8192 },
      { start: 0, size: 4096 },
    ])
    expect(memory.regions.map(r => r.start)).toEqual([0, 2 ** 32])
    expect(memory.mappings.map(m => m.size)).toEqual([4096, 8192])
    expect(memory.mappings.every(m => m.fd >= 0 && m.hostAddress > 0n)).toBe(true)
    expect(memory.regions.every(r => r.bytes.every(byte => byte === 0))).toBe(true)
  })

  test("shares its bytes with whoever maps the fd", () => {
    using memory = mmapMemory([{ start: 0, size: 4096 }])
    using other = Mapping.map({ fd: memory.mappings[0]!.fd, offset: 0, size: 4096 })
    memory.storeU16(8, 0xabcd)
    expect(new DataView(other.buffer).getUint16(8, true)).toBe(0xabcd)
  })

  test("has no fd when it is not to be shared, and gives discarded pages back all the same", () => {
    using memory = mmapMemory([{ start: 0, size: 8192 }], { shared: false })
    memory.storeU16(4096, 0xabcd)
    memory.discard(4096, 4096)
    expect(memory.mappings[0]!.fd).toBe(-1)
    expect(memory.loadU16(4096)).toBe(0)
  })

  test("Q22: is sealed against resizing, and close makes each access fail cleanly", () => {
    const memory = mmapMemory([{ start: 0, size: 4096 }])
    expect(memory.mappings[0]!.sealed).toBe(true)
    memory.close()
    memory.close()
    expect(memory.regions[0]!.bytes.length).toBe(0)
    expect(() => memory.read(0, new Uint8Array(1))).toThrow(MemoryError)
  })

  test("leaves nothing mapped when a region is refused", () => {
    expect(() =>
      mmapMemory([
        { start: 0, size: 8192 },
        { start: 4096, size: 4096 },
      ]),
    ).toThrow("regions overlap")
    expect(() => mmapMemory([{ start: 0, size: 2 ** 32 + 4096 }])).toThrow("larger than 4 GiB")
  })

  test("takes a 4 GiB region, whose pages cost nothing until touched", () => {
    using memory = mmapMemory([{ start: 0, size: 2 ** 32 }])
    memory.write(2 ** 32 - 3, Uint8Array.of(1, 2, 3))
    memory.storeU16(2 ** 32 - 8, 77)
    expect(memory.loadU16(2 ** 32 - 8)).toBe(77)
    expect(memory.slices(2 ** 32 - 3, 3)[0]).toEqual(Uint8Array.of(1, 2, 3))
  })
})

describe("mappingMemory", () => {
  test("presents mappings in address order and closes them", () => {
    const low = Mapping.create({ name: "low", size: 4096 })
    const high = Mapping.create({ name: "high", size: 4096 })
    const memory = mappingMemory([
      { start: 0x10000, mapping: high },
      { start: 0, mapping: low },
    ])
    expect(memory.mappings).toEqual([low, high])
    memory.close()
    expect([low.closed, high.closed]).toEqual([true, true])
  })
})
