import { describe, expect, test } from "vitest"
import { KvmError } from "../errors.js"
import { kvmRegList } from "./any-arch.js"
import { kvmCpuid2, kvmMsrList, kvmMsrs, kvmRegs, kvmSegment, kvmSregs, kvmVcpuEvents } from "./x86-64.js"

const cpuidEntry = { function: 1, index: 0, flags: 0, eax: 1, ebx: 2, ecx: 0xffff_ffff, edx: 4 }

function codeOf(action: () => unknown): string | undefined {
  try {
    action()
  } catch (error) {
    if (error instanceof KvmError) return error.code
    throw error
  }
  return undefined
}

describe("a structure", () => {
  test("goes through its bytes unchanged, also nested and with every bit of a register", () => {
    const zero = kvmSregs.decode(new Uint8Array(kvmSregs.span))
    const value = { ...zero, cr3: 0xffff_ffff_ffff_f000n, cs: { ...zero.cs, selector: 8, l: 1 } }
    expect(kvmSregs.decode(kvmSregs.toBytes(value))).toEqual(value)
  })

  test("does not show its padding, and writes zeroes there", () => {
    const bytes = kvmSegment.toBytes({ ...kvmSegment.decode(new Uint8Array(kvmSegment.span)), unusable: 1 })
    expect(Object.keys(kvmSegment.decode(bytes))).not.toContain("padding")
    expect([...bytes.subarray(22)]).toEqual([1, 0])
  })

  test("does not show padding inside of what it contains either", () => {
    const events = kvmVcpuEvents.decode(new Uint8Array(kvmVcpuEvents.span).fill(1))
    expect(Object.keys(events.nmi)).toEqual(["injected", "pending", "masked"])
    expect(events).not.toHaveProperty("reserved")
  })

  test("refuses a number that does not fit its field", () => {
    const regs = kvmRegs.decode(new Uint8Array(kvmRegs.span))
    expect(codeOf(() => kvmRegs.toBytes({ ...regs, rip: -1n }))).toBe("invalid-argument")
    expect(codeOf(() => kvmRegs.toBytes({ ...regs, rip: 1n << 64n }))).toBe("invalid-argument")
    expect(codeOf(() => kvmRegs.toBytes({ ...regs, rip: 5 as never }))).toBe("invalid-argument")
  })
})

describe("a structure that ends in an array", () => {
  test("has the number of elements in its header", () => {
    const bytes = kvmCpuid2.toBytes([cpuidEntry, { ...cpuidEntry, function: 2 }])
    expect(bytes.length).toBe(8 + 2 * 40)
    expect(kvmCpuid2.count(bytes)).toBe(2)
    expect(kvmCpuid2.decode(bytes)).toEqual([cpuidEntry, { ...cpuidEntry, function: 2 }])
  })

  test("may be empty", () => {
    expect(kvmMsrs.decode(kvmMsrs.toBytes([]))).toEqual([])
  })

  test("takes no more elements than the kernel does", () => {
    const entries = Array.from({ length: 257 }, () => cpuidEntry)
    expect(codeOf(() => kvmCpuid2.toBytes(entries))).toBe("invalid-argument")
    expect(kvmCpuid2.toBytes(entries.slice(1)).length).toBe(8 + 256 * 40)
  })

  test.each([-1, 1.5, Number.NaN, 257])("makes no room for %d elements", count => {
    expect(codeOf(() => kvmMsrs.room(count))).toBe("invalid-argument")
  })

  test("reads no more elements than there are bytes, whatever its header says", () => {
    const bytes = kvmMsrList.room(2)
    new DataView(bytes.buffer).setUint32(0, 0xffff_ffff, true)
    expect(kvmMsrList.decode(bytes)).toHaveLength(2)
    expect(kvmMsrList.decode(bytes.subarray(0, 7))).toHaveLength(0)
  })

  test("may count in 64 bits", () => {
    expect(kvmRegList.count(kvmRegList.room(3))).toBe(3)
  })
})
