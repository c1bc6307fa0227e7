import type { KvmFpu } from "@ts-vmm/kvm-ioctls"
import { describe, expect, test } from "vitest"
import { setUpFpu } from "./fpu.js"
import { setUpLapic } from "./lapic.js"
import { setUpMsrs } from "./msrs.js"

test("the FPU is as after FNINIT: exceptions masked, for SSE too", () => {
  let fpu = { fcw: 0, mxcsr: 0, fsw: 7 } as KvmFpu
  setUpFpu({
    getFpu: () => fpu,
    setFpu: state => {
      fpu = state
    },
  })
  expect(fpu).toEqual({ fcw: 0x37f, mxcsr: 0x1f80, fsw: 7 })
})

test("MSRs are as firmware leaves them", () => {
  const msrs = new Map<number, bigint>()
  setUpMsrs({
    setMsrs: entries => {
      for (const { index, data } of entries) msrs.set(index, data)
      return entries.length
    },
  })
  expect(msrs.get(0x2ff)).toBe(0x806n) // MTRRs on, write-back
  expect(msrs.get(0x1a0)).toBe(1n) // fast strings
  const cleared = [0x10, 0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102]
  expect(cleared.map(index => msrs.get(index))).toEqual(cleared.map(() => 0n))
  expect(msrs.size).toBe(cleared.length + 2)
})

test("an MSR that KVM does not set is named", () => {
  expect(() => setUpMsrs({ setMsrs: () => 9 })).toThrow("this host's KVM does not set MSR 0x1a0")
})

describe("local interrupt pins", () => {
  const LINT0 = 0x350
  const LINT1 = 0x360

  /** The registers after set-up, from those of a reset (masked) or others. */
  function pinsAfter(hasPic: boolean, before = 0x1_0000): number[] {
    const regs = new Uint8Array(1024)
    const view = new DataView(regs.buffer)
    view.setUint32(LINT0, before, true)
    view.setUint32(LINT1, before, true)
    view.setUint32(0x20, 3 << 24, true)
    setUpLapic({ getLapic: () => ({ regs }), setLapic: () => undefined }, hasPic)
    expect(view.getUint32(0x20, true)).toBe(3 << 24)
    return [view.getUint32(LINT0, true), view.getUint32(LINT1, true)]
  }

  test("are virtual wire with a PIC: ExtINT on LINT0, NMI on LINT1", () => {
    expect(pinsAfter(true)).toEqual([0x700, 0x400])
    expect(pinsAfter(true, 0x1_a5ff)).toEqual([0xa0ff | 0x700, 0xa0ff | 0x400])
  })

  test("leave LINT0 masked without one", () => {
    expect(pinsAfter(false)).toEqual([0x1_0000, 0x400])
  })
})
