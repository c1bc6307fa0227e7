import { closeFd, Mapping } from "@ts-vmm/native"
import { describe, expect, test } from "vitest"
import {
  Cap,
  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  Kvm,
  KvmError,
} from "../../src/index.js"
import { asm, Guest, RAM_SIZE } from "./guest.js"

/** Writes al to a byte of segment 0 at each of these addresses, then halts. */
const writes = (...addresses: number[]) => [...addresses.flatMap(asm.storeAl), ...asm.hlt]

function pagesOf(bitmap: Uint8Array): number[] {
  return [...bitmap].flatMap((byte, index) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter(bit => (byte & (1 << bit)) !== 0).map(bit => index * 8 + bit),
  )
}

function errorOf(action: () => unknown): Partial<KvmError> {
  try {
    action()
  } catch (error) {
    if (error instanceof KvmError) return error
    throw error
  }
  throw new Error("nothing was thrown")
}

describe("memory slots", () => {
  test("what the guest writes is in the mapping, and the other way round", () => {
    using guest = new Guest([...asm.loadAl(0x5000), ...asm.storeAl(0x5001), ...asm.hlt])
    guest.bytes[0x5000] = 0x5a
    guest.expectExit("hlt")
    expect(guest.bytes[0x5001]).toBe(0x5a)
  })

  test("a write to a read-only slot is an exit mmio; a read is not", () => {
    using guest = new Guest(
      [...asm.loadAl(0x5000), ...asm.storeAl(0x6000), ...asm.hlt],
      () => undefined,
      KVM_MEM_READONLY,
    )
    expect(guest.expectExit("mmio")).toMatchObject({ address: 0x6000, isWrite: true })
    guest.expectExit("hlt")
    expect(guest.bytes[0x6000]).toBe(0)
  })

  test("size 0 removes a slot, and its addresses are free again", () => {
    using guest = new Guest(asm.hlt)
    guest.vm.setUserMemoryRegion({ ...guest.slot(), size: 0 })
    guest.vm.setUserMemoryRegion({ ...guest.slot(), slot: 1 })
    guest.expectExit("hlt")
  })

  test.each([
    ["EEXIST", { slot: 1 }, /overlaps another slot/],
    ["EINVAL", { slot: 1, guestAddress: 0x10_0800 }, /multiples of the page size/],
    ["EINVAL", { slot: 100_000, guestAddress: 0x10_0000 }, /the slot in range/],
    ["EINVAL", { size: RAM_SIZE / 2 }, /size never changes/],
  ])("%s for %o, with what is wrong", (errnoName, change, hint) => {
    using guest = new Guest(asm.hlt)
    const error = errorOf(() => guest.vm.setUserMemoryRegion({ ...guest.slot(), ...change }))
    expect(error).toMatchObject({ code: "ioctl", errnoName, syscall: "KVM_SET_USER_MEMORY_REGION" })
    expect(error.message).toMatch(hint)
  })

  test("an address that is no number of bytes is refused before the kernel sees it", () => {
    using guest = new Guest(asm.hlt)
    const error = errorOf(() => guest.vm.setUserMemoryRegion({ ...guest.slot(), guestAddress: -4096 }))
    expect(error).toMatchObject({ code: "invalid-argument", errno: undefined })
  })

  test("slots with private memory work where the kernel has them, and are unsupported elsewhere", () => {
    using guest = new Guest(asm.hlt)
    const region = { ...guest.slot(), slot: 1, guestAddress: 0x10_0000 }
    if (!guest.vm.checkExtension(Cap.UserMemory2)) {
      const error = errorOf(() => guest.vm.setUserMemoryRegion2(region))
      expect(error).toMatchObject({ code: "unsupported", syscall: "KVM_SET_USER_MEMORY_REGION2" })
      expect(errorOf(() => guest.vm.createGuestMemfd(4096))).toMatchObject({ code: "unsupported" })
      return
    }
    guest.vm.setUserMemoryRegion2(region)
    expect(errorOf(() => guest.vm.setUserMemoryRegion2({ ...region, slot: 2 }))).toMatchObject({
      errnoName: "EEXIST",
    })
    if (guest.vm.checkExtension(Cap.GuestMemfd)) closeFd(guest.vm.createGuestMemfd(4096))
  })
})

describe("the dirty log", () => {
  test("names the pages that the guest wrote, once", () => {
    using guest = new Guest(writes(0x3000, 0x7fff, 0x9000), () => undefined, KVM_MEM_LOG_DIRTY_PAGES)
    guest.expectExit("hlt")
    const first = guest.vm.getDirtyLog(0, RAM_SIZE)
    expect(first.length).toBe(8)
    expect(pagesOf(first)).toEqual(expect.arrayContaining([3, 7, 9]))
    expect(pagesOf(first)).not.toContain(8)
    expect(pagesOf(guest.vm.getDirtyLog(0, RAM_SIZE))).toEqual([])
  })

  test("keeps them until they are cleared, where that was asked for", () => {
    const manual = (vm: Guest["vm"]) =>
      vm.enableCap(Cap.ManualDirtyLogProtect2, [KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE])
    using guest = new Guest(writes(0x3000), manual, KVM_MEM_LOG_DIRTY_PAGES)
    guest.expectExit("hlt")
    const bitmap = guest.vm.getDirtyLog(0, RAM_SIZE)
    expect(pagesOf(guest.vm.getDirtyLog(0, RAM_SIZE))).toContain(3)
    guest.vm.clearDirtyLog({ slot: 0, firstPage: 0, numPages: RAM_SIZE / 4096, bitmap })
    expect(pagesOf(guest.vm.getDirtyLog(0, RAM_SIZE))).toEqual([])
    const short = { slot: 0, firstPage: 0, numPages: 64, bitmap: new Uint8Array(7) }
    expect(errorOf(() => guest.vm.clearDirtyLog(short))).toMatchObject({ code: "invalid-argument" })
  })

  test("of a slot that is not logged is ENOENT, with what to do", () => {
    using guest = new Guest(asm.hlt)
    const error = errorOf(() => guest.vm.getDirtyLog(0, RAM_SIZE))
    expect(error).toMatchObject({ errnoName: "ENOENT", syscall: "KVM_GET_DIRTY_LOG" })
    expect(error.message).toContain("KVM_MEM_LOG_DIRTY_PAGES")
  })
})

describe("the dirty ring", () => {
  test("names the pages that the guest wrote, and after a reset names them again", ({ skip }) => {
    const size = 65_536
    using kvm = new Kvm()
    if (kvm.checkExtensionInt(Cap.DirtyLogRing) < size) skip("this kernel has no dirty ring")
    const enable = (vm: Guest["vm"]) => vm.enableCap(Cap.DirtyLogRing, [size])
    using guest = new Guest(writes(0x3000, 0x4000), enable, KVM_MEM_LOG_DIRTY_PAGES)
    using ring = guest.vcpu.mapDirtyRing(size)
    guest.expectExit("hlt")
    const pages = [...ring.harvest()]
    expect(pages).toEqual(
      expect.arrayContaining([
        { slot: 0, page: 3 },
        { slot: 0, page: 4 },
      ]),
    )
    expect(guest.vm.resetDirtyRings()).toBe(pages.length)
    guest.start()
    guest.expectExit("hlt")
    expect([...ring.harvest()]).toContainEqual({ slot: 0, page: 3 })
  })

  test("has a power of two of bytes", () => {
    using guest = new Guest(asm.hlt)
    expect(errorOf(() => guest.vcpu.mapDirtyRing(5000))).toMatchObject({ code: "invalid-argument" })
  })
})

describe("coalesced writes", () => {
  test("to memory stop no vCPU, and are read in order", () => {
    const code = [
      ...asm.ds(0xf000),
      ...asm.eax(0x11),
      ...asm.storeAl(0),
      ...asm.eax(0x22334455),
      ...asm.storeEax(4),
    ]
    using guest = new Guest([...code, ...asm.storeAl(0x100), ...asm.hlt])
    guest.vm.registerCoalescedMmio({ space: "mmio", address: 0xf0000, size: 16 })
    expect(guest.expectExit("mmio")).toMatchObject({ address: 0xf0100 })
    expect(guest.vcpu.coalescedMmioRead()).toEqual({
      space: "mmio",
      address: 0xf0000,
      data: Uint8Array.of(0x11),
    })
    expect(guest.vcpu.coalescedMmioRead()).toMatchObject({
      address: 0xf0004,
      data: Uint8Array.of(0x55, 0x44, 0x33, 0x22),
    })
    expect(guest.vcpu.coalescedMmioRead()).toBeUndefined()
    guest.expectExit("hlt")
  })

  test("to ports likewise, and unregistered they are exits again", () => {
    const zone = { space: "pio" as const, address: 0x402, size: 1 }
    using guest = new Guest([...asm.eax(0x41), ...asm.dx(0x402), ...asm.outAl, ...asm.hlt])
    guest.vm.registerCoalescedMmio(zone)
    guest.expectExit("hlt")
    expect(guest.vcpu.coalescedMmioRead()).toEqual({
      space: "pio",
      address: 0x402,
      data: Uint8Array.of(0x41),
    })
    guest.vm.unregisterCoalescedMmio(zone)
    guest.start()
    expect(guest.expectExit("io")).toMatchObject({ port: 0x402 })
  })
})

test("closing a mapping after its VM leaves nothing behind", () => {
  const before = Mapping.create({ name: "probe", size: 4096 })
  const { fd } = before
  before.close()
  for (let i = 0; i < 3; i += 1) new Guest(asm.hlt)[Symbol.dispose]()
  using after = Mapping.create({ name: "probe", size: 4096 })
  expect(after.fd).toBe(fd)
})
