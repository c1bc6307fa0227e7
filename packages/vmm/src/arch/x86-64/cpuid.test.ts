import type { KvmCpuidEntry2 } from "@ts-vmm/kvm-ioctls"
import { describe, expect, test } from "vitest"
import { VmmError } from "../../errors.js"
import { vcpuCpuid } from "./cpuid.js"
import { MASKED_BITS, MASKED_LEAVES } from "./cpuid-mask.js"

const INTEL = 0x756e_6547
const AMD = 0x6874_7541
const ALL = 0xffff_ffff

function entry(leaf: number, index = 0, registers: Partial<KvmCpuidEntry2> = {}): KvmCpuidEntry2 {
  return { function: leaf, index, flags: index ? 1 : 0, eax: 0, ebx: 0, ecx: 0, edx: 0, ...registers }
}

const cache = (level: number, type: number) => (level << 5) | type | (0x3f << 26) | (0xfff << 14)

/** What KVM might say on a host of either vendor, with the host's topology in it. */
function supported(vendor: number): KvmCpuidEntry2[] {
  return [
    entry(0x0, 0, { eax: 0x10, ebx: vendor }),
    entry(0x1, 0, {
      eax: 0x0080_0f12,
      ebx: 0x1740_0800,
      ecx: 0x7fff_ffff & ~(1 << 24),
      edx: ALL & ~(1 << 28),
    }),
    entry(0x4, 0, { eax: cache(1, 1) >>> 0, ebx: 0x1c0003f }),
    entry(0x4, 3, { eax: cache(3, 3) >>> 0 }),
    entry(0x4, 4),
    entry(0x5, 0, { eax: 64, ebx: 64, ecx: 3 }),
    entry(0x6, 0, { eax: 4 }),
    entry(0x7, 0, { ebx: ALL, ecx: ALL, edx: ALL }),
    entry(0xa, 0, { eax: 0x0830_0802 }),
    entry(0xb, 0, { edx: 77 }),
    entry(0xd, 1, { eax: 0xf }),
    entry(0x4000_0000, 0, { eax: 0x4000_0001, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d }),
    entry(0x4000_0001, 0, { eax: 0x0100_3efb }),
    entry(0x8000_0000, 0, { eax: 0x8000_0021 }),
    entry(0x8000_0001, 0, { ecx: ALL & ~2, edx: ALL }),
    entry(0x8000_0008, 0, { eax: 0x3030, ecx: 0x703f }),
    entry(0x8000_000a, 0, { eax: 1, ebx: 8 }),
    entry(0x8000_001d, 3, { eax: cache(3, 3) >>> 0 }),
    entry(0x8000_001e, 0, { eax: 77, ebx: 0x0105, ecx: 0x0303 }),
    entry(0x8000_0026, 0, { eax: 1, ebx: 2 }),
  ]
}

function cpuid(vendor: number, vcpuIndex = 0, vcpuCount = 1, extra = {}) {
  return vcpuCpuid(supported(vendor), { vcpuIndex, vcpuCount, tscDeadlineTimer: true, ...extra })
}

function leaf(entries: KvmCpuidEntry2[], number: number, index = 0): KvmCpuidEntry2 | undefined {
  return entries.find(e => e.function === number && e.index === index)
}

describe("features", () => {
  test("the hypervisor bit and, with KVM's word for it, the TSC deadline timer are added", () => {
    expect((leaf(cpuid(AMD), 1)!.ecx >>> 31) & 1).toBe(1)
    expect((leaf(cpuid(AMD), 1)!.ecx >>> 24) & 1).toBe(1)
    expect((leaf(cpuid(AMD, 0, 1, { tscDeadlineTimer: false }), 1)!.ecx >>> 24) & 1).toBe(0)
  })

  test.each(MASKED_BITS)(
    "$name is masked, and no bit beside it",
    ({ leaf: number, index, register, bit }) => {
      const value = leaf(cpuid(AMD), number, index)![register]
      expect((value >>> bit) & 1).toBe(0)
      const others = MASKED_BITS.filter(b => b.leaf === number && b.register === register).map(
        b => 1 << b.bit,
      )
      const before = leaf(supported(AMD), number, index)![register]
      const masked = others.reduce((all, one) => all & ~one, before)
      expect(value & masked).toBe(masked)
    },
  )

  test("masked leaves are gone, each with a reason", () => {
    for (const [number, reason] of MASKED_LEAVES) {
      expect(leaf(cpuid(INTEL), number)).toBeUndefined()
      expect(reason.length).toBeGreaterThan(10)
    }
    for (const { reason } of MASKED_BITS) expect(reason.length).toBeGreaterThan(10)
  })

  test("KVM's own leaves and all others pass through", () => {
    for (const number of [0x4000_0001, 0x6])
      expect(leaf(cpuid(AMD), number)).toEqual(leaf(supported(AMD), number))
    expect(leaf(cpuid(AMD), 0x4000_0000)).toMatchObject({ ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d })
    expect(leaf(cpuid(AMD), 0xd, 1)).toEqual(leaf(supported(AMD), 0xd, 1))
  })

  test("what KVM said is not changed", () => {
    const entries = supported(AMD)
    vcpuCpuid(entries, { vcpuIndex: 3, vcpuCount: 4, tscDeadlineTimer: true, tscKhz: 2_500_000 })
    expect(entries).toEqual(supported(AMD))
  })
})

describe("topology", () => {
  test("leaf 1 has the APIC id, the number of processors and, for more than one, HTT", () => {
    const one = leaf(cpuid(AMD), 1)!
    expect([one.ebx >>> 24, (one.ebx >>> 16) & 0xff, (one.edx >>> 28) & 1]).toEqual([0, 1, 0])
    const third = leaf(cpuid(AMD, 2, 4), 1)!
    expect([third.ebx >>> 24, (third.ebx >>> 16) & 0xff, (third.edx >>> 28) & 1]).toEqual([2, 4, 1])
    expect(third.ebx & 0xffff).toBe(0x0800)
  })

  test.each([0xb, 0x1f])("leaf 0x%x goes from thread to core to the end", number => {
    const entries = vcpuCpuid([entry(0, 0, { eax: 0x1f, ebx: INTEL }), ...supported(INTEL).slice(1)], {
      vcpuIndex: 5,
      vcpuCount: 6,
      tscDeadlineTimer: true,
    })
    const levels = entries.filter(e => e.function === number)
    expect(levels.map(e => [e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx])).toEqual([
      [0, 1, 0, 1, 0x100, 5],
      [1, 1, 3, 6, 0x201, 5],
      [2, 1, 0, 0, 0x002, 5],
    ])
  })

  test("leaves beyond the highest are not made up", () => {
    expect(leaf(cpuid(INTEL), 0x1f)).toBeUndefined()
  })

  test("APIC ids differ, and fit the width that is given for them", () => {
    for (const count of [1, 2, 3, 4, 7, 8, 31, 32]) {
      const all = Array.from({ length: count }, (_, index) => cpuid(AMD, index, count))
      const ids = all.map(entries => leaf(entries, 0xb, 1)!.edx)
      expect(ids).toEqual(Array.from({ length: count }, (_, i) => i))
      const width = leaf(all[0]!, 0xb, 1)!.eax
      expect(Math.max(...ids)).toBeLessThan(2 ** width)
      expect(leaf(all[0]!, 0x8000_0008)!.ecx).toBe((width << 12) | (count - 1))
    }
  })

  test("caches up to level 2 are a core's own, level 3 is everybody's", () => {
    const entries = cpuid(INTEL, 0, 4)
    const sharing = (e: KvmCpuidEntry2) => (e.eax >>> 14) & 0xfff
    expect(sharing(leaf(entries, 4)!)).toBe(0)
    expect(sharing(leaf(entries, 4, 3)!)).toBe(3)
    expect(leaf(entries, 4)!.eax >>> 26).toBe(3)
    expect(sharing(leaf(entries, 0x8000_001d, 3)!)).toBe(3)
    expect(leaf(entries, 4, 4)!.eax).toBe(0)
  })

  test("AMD's leaves say one node, one thread per core; its extended topology leaf is left out", () => {
    const entries = cpuid(AMD, 2, 4)
    expect(leaf(entries, 0x8000_001e)).toMatchObject({ eax: 2, ebx: 2, ecx: 0, edx: 0 })
    expect(leaf(entries, 0x8000_0026)).toBeUndefined()
    expect(leaf(entries, 0x8000_0001)!.ecx & 2).toBe(2)
  })

  test("fields that only AMD defines stay as they are elsewhere", () => {
    const entries = cpuid(INTEL, 2, 4)
    expect(leaf(entries, 0x8000_0008)!.ecx).toBe(0x703f)
    expect(leaf(entries, 0x8000_0001)!.ecx & 2).toBe(0)
  })
})

describe("frequencies", () => {
  test("on Intel, leaves 0x15 and 0x16 give the TSC's from the APIC's", () => {
    const entries = cpuid(INTEL, 0, 1, { tscKhz: 2_594_123 })
    const { eax, ebx, ecx } = leaf(entries, 0x15)!
    expect((ecx * ebx) / eax).toBe(2_594_123_000)
    expect(leaf(entries, 0x16)).toMatchObject({ eax: 2594, ebx: 2594 })
    expect(leaf(entries, 0)!.eax).toBe(0x16)
  })

  test("on AMD those leaves stay away", () => {
    const entries = cpuid(AMD, 0, 1, { tscKhz: 2_594_123 })
    expect(leaf(entries, 0x15)).toBeUndefined()
    expect(leaf(entries, 0)!.eax).toBe(0x10)
  })

  test("the hypervisor's timing leaf has both in kHz and is announced", () => {
    const entries = cpuid(AMD, 0, 1, { tscKhz: 2_594_123 })
    expect(leaf(entries, 0x4000_0010)).toMatchObject({ eax: 2_594_123, ebx: 1_000_000 })
    expect(leaf(entries, 0x4000_0000)!.eax).toBe(0x4000_0010)
    expect(leaf(cpuid(AMD), 0x4000_0010)).toBeUndefined()
  })
})

test.each([
  [0, 0],
  [0, 33],
  [1, 1],
  [-1, 2],
  [0.5, 2],
])("vCPU %d of %d is refused", (vcpuIndex, vcpuCount) => {
  expect(() => vcpuCpuid(supported(AMD), { vcpuIndex, vcpuCount, tscDeadlineTimer: true })).toThrow(VmmError)
})
