import { describe, expect, test } from "vitest"
import { enableCapFields, toFd, toU32, toU64 } from "../arguments.js"
import * as kvm from "../bindings/common.js"
import { routingEntry } from "./irq-route.js"
import { msrFilterFields, msrFilterSize } from "./msr-filter.js"

const u32s = (bytes: Uint8Array, count: number) => [...new Uint32Array(bytes.slice().buffer, 0, count)]

describe("numbers for the kernel", () => {
  test.each([-1, 0.5, Number.NaN, 2 ** 53])("%d is no address", value => {
    expect(() => toU64("address", value)).toThrow(/address must be an integer/)
  })

  test.each([-1, 1.5, 2 ** 32])("%d is no 32-bit number", value => {
    expect(() => toU32("slot", value)).toThrow(/slot must be an integer/)
  })

  test.each([-1, 2 ** 31, Number.NaN])("%d is no file descriptor", value => {
    expect(() => toFd("eventFd", value)).toThrow(/eventFd must be a file descriptor/)
  })

  test("a capability takes four arguments, and what is left out is 0", () => {
    expect(enableCapFields(121, [24], 0)).toEqual({ cap: 121, flags: 0, args: [24n, 0n, 0n, 0n] })
    expect(() => enableCapFields(121, [1, 2, 3, 4, 5], 0)).toThrow(/takes 4 arguments/)
  })
})

describe("an interrupt route", () => {
  test("to a pin", () => {
    const entry = routingEntry({ gsi: 5, irqchip: { irqchip: 2, pin: 7 } })
    expect(entry).toMatchObject({ gsi: 5, type: kvm.KVM_IRQ_ROUTING_IRQCHIP, flags: 0 })
    expect(u32s(entry.u, 2)).toEqual([2, 7])
  })

  test("to a message, with and without a device", () => {
    const msi = { address_lo: 0xfee0_0000, address_hi: 0, data: 0x41 }
    const plain = routingEntry({ gsi: 24, msi })
    expect(plain).toMatchObject({ type: kvm.KVM_IRQ_ROUTING_MSI, flags: 0 })
    expect(u32s(plain.u, 4)).toEqual([0xfee0_0000, 0, 0x41, 0])
    const withDevice = routingEntry({ gsi: 24, msi: { ...msi, devid: 9 } })
    expect(withDevice.flags).toBe(kvm.KVM_MSI_VALID_DEVID)
    expect(u32s(withDevice.u, 4)[3]).toBe(9)
  })

  test("to Hyper-V and to Xen", () => {
    const sint = routingEntry({ gsi: 1, hv_sint: { vcpu: 2, sint: 3 } })
    expect([sint.type, ...u32s(sint.u, 2)]).toEqual([kvm.KVM_IRQ_ROUTING_HV_SINT, 2, 3])
    const channel = routingEntry({ gsi: 1, xen_evtchn: { port: 4, vcpu: 5, priority: 6 } })
    expect([channel.type, ...u32s(channel.u, 3)]).toEqual([kvm.KVM_IRQ_ROUTING_XEN_EVTCHN, 4, 5, 6])
  })
})

describe("an MSR filter", () => {
  const range = (nmsrs: number, bytes: number) => ({
    flags: 3,
    base: 0x10,
    nmsrs,
    bitmap: new Uint8Array(bytes).fill(0xaa),
  })

  test("lays its bitmaps one after the other and points to each", () => {
    const filter = { default: "deny" as const, ranges: [range(9, 2), range(8, 1)] }
    const bytes = new Uint8Array(msrFilterSize(filter))
    const fields = msrFilterFields(filter, bytes, 0x7000n)
    expect(bytes.length).toBe(3)
    expect(fields.flags).toBe(1)
    expect(fields.ranges.map(({ bitmap }) => bitmap)).toEqual([0x7000n, 0x7002n])
  })

  test.each([
    [9, 1],
    [0, 0],
    [8, 2],
    [0x600 * 8 + 1, 0x601],
  ])("of %i MSRs refuses a bitmap of %i bytes", (nmsrs, size) => {
    expect(() => msrFilterSize({ default: "allow", ranges: [range(nmsrs, size)] })).toThrow(
      /needs a bitmap of/,
    )
  })

  test("has at most 16 ranges", () => {
    const ranges = Array.from({ length: 17 }, () => range(8, 1))
    expect(() => msrFilterSize({ default: "allow", ranges })).toThrow(/at most 16 ranges/)
  })
})
