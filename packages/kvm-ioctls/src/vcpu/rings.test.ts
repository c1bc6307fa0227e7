import { Mapping } from "@ts-vmm/native"
import { describe, expect, test } from "vitest"
import { KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET } from "../bindings/common.js"
import { kvmCoalescedMmio, kvmDirtyGfn } from "../structs/any-arch.js"
import { KVM_RUN_OFFSETS } from "../structs/kvm-run.js"
import { kvmSyncRegs } from "../structs/x86-64.js"
import { CoalescedRing } from "./coalesced-ring.js"
import { DirtyRing } from "./dirty-ring.js"
import { SyncRegs } from "./sync-regs.js"

const RING_PAGE = 2 * 4096
const RING_ENTRIES = 170

describe("the coalesced ring", () => {
  /** A page whose ring holds `count` writes from entry `first` on: to address i, of i + 1 bytes. */
  function ringWith(first: number, count: number) {
    const page = new DataView(new ArrayBuffer(3 * 4096))
    page.setUint32(RING_PAGE, first, true)
    page.setUint32(RING_PAGE + 4, (first + count) % RING_ENTRIES, true)
    for (let i = 0; i < count; i += 1) {
      const at = RING_PAGE + 8 + ((first + i) % RING_ENTRIES) * kvmCoalescedMmio.span
      const write = { phys_addr: BigInt(i), len: i + 1, pio: i % 2, data: new Uint8Array(8).fill(i) }
      kvmCoalescedMmio.encode(write, new Uint8Array(page.buffer), at)
    }
    return { page, ring: new CoalescedRing(page, "x64") }
  }

  test("gives the writes in order, and room back to the kernel", () => {
    const { page, ring } = ringWith(0, 2)
    expect(ring.read()).toEqual({ space: "mmio", address: 0, data: Uint8Array.of(0) })
    expect(page.getUint32(RING_PAGE, true)).toBe(1)
    expect(ring.read()).toEqual({ space: "pio", address: 1, data: Uint8Array.of(1, 1) })
    expect(ring.read()).toBeUndefined()
  })

  test("goes round the end of its page", () => {
    const { page, ring } = ringWith(RING_ENTRIES - 1, 2)
    expect([ring.read()?.address, ring.read()?.address, ring.read()]).toEqual([0, 1, undefined])
    expect(page.getUint32(RING_PAGE, true)).toBe(1)
  })

  test("reads at most 8 bytes, and stays in its page whatever the indexes are", () => {
    const { page, ring } = ringWith(0, 1)
    page.setUint32(RING_PAGE + 8 + 8, 4000, true)
    expect(ring.read()?.data).toHaveLength(8)
    page.setUint32(RING_PAGE, 0xffff_fff0, true)
    expect(ring.read()?.data.length).toBeLessThanOrEqual(8)
  })

  test("is one page earlier on arm64", () => {
    const page = new DataView(new ArrayBuffer(2 * 4096))
    page.setUint32(4096 + 4, 1, true)
    expect(new CoalescedRing(page, "arm64").read()).toMatchObject({ address: 0 })
  })
})

describe("the dirty ring", () => {
  function dirty(ring: Mapping, entry: number, slot: number, offset: bigint): void {
    const at = entry * kvmDirtyGfn.span
    kvmDirtyGfn.encode({ flags: KVM_DIRTY_GFN_F_DIRTY, slot, offset }, new Uint8Array(ring.buffer), at)
  }

  test("gives each dirty page once and marks it for the kernel to watch again", () => {
    const mapping = Mapping.create({ name: "ring", size: 4096 })
    using ring = new DirtyRing(mapping)
    dirty(mapping, 0, 1, 5n)
    dirty(mapping, 1, 1, 9n)
    expect([...ring.harvest()]).toEqual([
      { slot: 1, page: 5 },
      { slot: 1, page: 9 },
    ])
    expect(new DataView(mapping.buffer).getUint32(0, true)).toBe(KVM_DIRTY_GFN_F_RESET)
    expect(ring.read()).toBeUndefined()
  })

  test("goes round", () => {
    const mapping = Mapping.create({ name: "ring", size: 4096 })
    using ring = new DirtyRing(mapping)
    for (let entry = 0; entry < 256; entry += 1) dirty(mapping, entry, 0, BigInt(entry))
    expect([...ring.harvest()]).toHaveLength(256)
    dirty(mapping, 0, 0, 77n)
    expect(ring.read()).toEqual({ slot: 0, page: 77 })
  })
})

test("registers in the page are where struct kvm_run has them, and classes are switched one by one", () => {
  const page = new DataView(new ArrayBuffer(4096))
  const registers = new SyncRegs(page)
  const value = kvmSyncRegs.decode(new Uint8Array(kvmSyncRegs.span))
  registers.set({ ...value, regs: { ...value.regs, rax: 0x55n } })
  expect(page.getBigUint64(KVM_RUN_OFFSETS["s.regs"], true)).toBe(0x55n)
  expect(registers.get().regs.rax).toBe(0x55n)
  registers.setValid("regs", true)
  registers.setValid("events", true)
  registers.setDirty("sregs", true)
  registers.setValid("regs", false)
  expect(page.getBigUint64(KVM_RUN_OFFSETS.kvm_valid_regs, true)).toBe(4n)
  expect(page.getBigUint64(KVM_RUN_OFFSETS.kvm_dirty_regs, true)).toBe(2n)
})
