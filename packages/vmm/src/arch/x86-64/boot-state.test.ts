import type { KvmRegs, KvmSregs } from "@ts-vmm/kvm-ioctls"
import { BOOT_GDT_START, BOOT_PAGE_TABLES_END, BOOT_PAGE_TABLES_START } from "@ts-vmm/linux-loader"
import { arrayBufferMemory, MemoryError } from "@ts-vmm/vm-memory"
import { beforeEach, describe, expect, test } from "vitest"
import { type BootVcpu, setUpLongMode, setUpPvh, setUpSecondary } from "./boot-state.js"
import { BOOT_CS, BOOT_DS, descriptorTable, LONG_MODE_CODE, PROTECTED_MODE_CODE } from "./gdt.js"
import { PAGE_TABLES_SIZE } from "./paging.js"

const RESET_APIC_BASE = 0xfee0_0900n

/** A vCPU as KVM resets it, as far as boot state looks at it. */
class FakeVcpu implements BootVcpu {
  sregs = {
    apic_base: RESET_APIC_BASE,
    cr8: 0n,
    ldt: {},
    interrupt_bitmap: [0n, 0n, 0n, 0n],
  } as unknown as KvmSregs
  regs: KvmRegs | undefined

  getSregs(): KvmSregs {
    return this.sregs
  }

  setSregs(sregs: KvmSregs): void {
    this.sregs = sregs
  }

  setRegs(regs: KvmRegs): void {
    this.regs = regs
  }
}

let vcpu: FakeVcpu
let memory: ReturnType<typeof arrayBufferMemory>

beforeEach(() => {
  vcpu = new FakeVcpu()
  memory = arrayBufferMemory([{ start: 0, size: 2 ** 20 }])
})

function readU64(at: number): bigint {
  const bytes = new Uint8Array(8)
  memory.read(at, bytes)
  return new DataView(bytes.buffer).getBigUint64(0, true)
}

/** What the CPU's page walk gives, with the tables that CR3 points at. Undefined: not mapped. */
function translate(address: bigint): bigint | undefined {
  const ADDRESS = 0x000f_ffff_ffff_f000n
  const pml4e = readU64(Number((vcpu.sregs.cr3 & ADDRESS) + ((address >> 39n) & 511n) * 8n))
  if (!(pml4e & 1n)) return undefined
  const pdpte = readU64(Number((pml4e & ADDRESS) + ((address >> 30n) & 511n) * 8n))
  if (!(pdpte & 1n)) return undefined
  const pde = readU64(Number((pdpte & ADDRESS) + ((address >> 21n) & 511n) * 8n))
  if (!(pde & 1n)) return undefined
  expect(pde & 0x82n).toBe(0x82n) // a writable 2 MiB page
  return (pde & ADDRESS & ~0x1f_ffffn) | (address & 0x1f_ffffn)
}

describe("64-bit boot protocol", () => {
  beforeEach(() => setUpLongMode(vcpu, memory, { entry: 0x100_0200, bootParams: 0x7000 }))

  test("long mode with paging is on, interrupts are off", () => {
    expect(vcpu.sregs).toMatchObject({ cr0: 0x8000_0011n, cr4: 0x20n, efer: 0x500n, cr3: 0x9000n })
    expect(vcpu.regs).toMatchObject({ rip: 0x100_0200n, rsi: 0x7000n, rsp: 0x8ff0n, rflags: 0x2n, rbx: 0n })
  })

  test("segments are flat: __BOOT_CS executes and reads, __BOOT_DS reads and writes", () => {
    expect(vcpu.sregs.cs).toMatchObject({
      selector: 0x10,
      base: 0n,
      limit: 0xffff_ffff,
      type: 0xb,
      l: 1,
      db: 0,
      g: 1,
    })
    for (const segment of [vcpu.sregs.ds, vcpu.sregs.es, vcpu.sregs.ss, vcpu.sregs.fs, vcpu.sregs.gs])
      expect(segment).toMatchObject({
        selector: 0x18,
        base: 0n,
        limit: 0xffff_ffff,
        type: 3,
        present: 1,
        s: 1,
        dpl: 0,
      })
    expect(vcpu.sregs.tr).toMatchObject({ type: 0xb, s: 0, present: 1 })
  })

  test("the descriptor table in memory says the same as the segment registers", () => {
    expect(vcpu.sregs.gdt).toEqual({ base: BigInt(BOOT_GDT_START), limit: 47 })
    expect(readU64(BOOT_GDT_START)).toBe(0n)
    expect(readU64(BOOT_GDT_START + BOOT_CS)).toBe(0x00af_9b00_0000_ffffn)
    expect(readU64(BOOT_GDT_START + BOOT_DS)).toBe(0x00cf_9300_0000_ffffn)
    expect(readU64(BOOT_GDT_START + 0x20)).toBe(0x0000_8b00_0000_0067n)
    expect(vcpu.sregs.idt).toEqual({ base: 0n, limit: 0 })
  })

  test("the first 4 GiB are mapped to themselves, and nothing else", () => {
    for (const address of [
      0n,
      0x7000n,
      0x1f_ffffn,
      0x20_0000n,
      0x100_0200n,
      0xbfff_ffffn,
      0xd000_0000n,
      0xffff_ffffn,
    ])
      expect(translate(address)).toBe(address)
    for (const address of [1n << 32n, 1n << 39n, 0xffff_ffff_8000_0000n])
      expect(translate(address)).toBeUndefined()
  })

  test("page tables stay in the room that the loader leaves for them", () => {
    expect(BOOT_PAGE_TABLES_START + PAGE_TABLES_SIZE).toBeLessThanOrEqual(BOOT_PAGE_TABLES_END)
    const used = memory.slices(0, 2 ** 20)[0]!.findLastIndex(byte => byte !== 0)
    expect(used).toBeLessThan(BOOT_PAGE_TABLES_START + PAGE_TABLES_SIZE)
  })

  test("what KVM set at reset stays", () => {
    expect(vcpu.sregs.apic_base).toBe(RESET_APIC_BASE)
    expect(vcpu.sregs.interrupt_bitmap).toEqual([0n, 0n, 0n, 0n])
  })

  test("without RAM at zero nothing is set", () => {
    const untouched = new FakeVcpu()
    const high = arrayBufferMemory([{ start: 2 ** 20, size: 4096 }])
    expect(() => setUpLongMode(untouched, high, { entry: 0, bootParams: 0 })).toThrow(MemoryError)
    expect(untouched.regs).toBeUndefined()
  })
})

describe("PVH boot ABI", () => {
  beforeEach(() => setUpPvh(vcpu, { entry: 0x100_0000, startInfo: 0x6000 }))

  test("protected mode without paging: CR0 has only PE, CR4 and EFER are clear", () => {
    expect(vcpu.sregs).toMatchObject({ cr0: 0x11n, cr3: 0n, cr4: 0n, efer: 0n })
    expect(vcpu.regs).toMatchObject({ rip: 0x100_0000n, rbx: 0x6000n, rflags: 0x2n, rsi: 0n })
  })

  test("segments are flat 32-bit ones, the task register a 32-bit TSS with limit 0x67", () => {
    expect(vcpu.sregs.cs).toMatchObject({ base: 0n, limit: 0xffff_ffff, type: 0xb, l: 0, db: 1, g: 1 })
    for (const segment of [vcpu.sregs.ds, vcpu.sregs.es, vcpu.sregs.ss])
      expect(segment).toMatchObject({ base: 0n, limit: 0xffff_ffff, type: 3, db: 1 })
    expect(vcpu.sregs.tr).toMatchObject({ base: 0n, limit: 0x67, type: 0xb })
  })
})

test("code descriptors differ only in their width", () => {
  const at = (table: Uint8Array) => new DataView(table.buffer).getBigUint64(BOOT_CS, true)
  expect(at(descriptorTable(LONG_MODE_CODE))).toBe(0x00af_9b00_0000_ffffn)
  expect(at(descriptorTable(PROTECTED_MODE_CODE))).toBe(0x00cf_9b00_0000_ffffn)
})

test("a further CPU waits for INIT and start-up IPI", () => {
  const states: { mp_state: number }[] = []
  setUpSecondary({ setMpState: state => void states.push(state) })
  expect(states).toEqual([{ mp_state: 1 }])
})
