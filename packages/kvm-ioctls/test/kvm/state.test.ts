import { describe, expect, test } from "vitest"
import {
  Cap,
  KVM_MP_STATE_HALTED,
  KVM_MP_STATE_RUNNABLE,
  KVM_VCPUEVENT_VALID_NMI_PENDING,
  KvmError,
  type VcpuFd,
} from "../../src/index.js"
import { asm, Guest } from "./guest.js"

const MSR_IA32_TSC = 0x10
const MSR_SYSENTER_CS = 0x174
const MSR_STAR = 0xc000_0081

function withApic(code: readonly number[] = asm.hlt): Guest {
  return new Guest(code, vm => vm.createIrqChip())
}

describe("what is set is what is read", () => {
  test("general purpose registers", () => {
    using guest = new Guest(asm.hlt)
    const regs = { ...guest.vcpu.getRegs(), rax: 0xffff_ffff_ffff_ffffn, r15: 1n << 63n, rip: 0x1234n }
    guest.vcpu.setRegs(regs)
    expect(guest.vcpu.getRegs()).toEqual(regs)
  })

  test("segment and control registers", () => {
    using guest = new Guest(asm.hlt)
    const sregs = guest.vcpu.getSregs()
    const changed = {
      ...sregs,
      gs: { ...sregs.gs, base: 0x12340n, selector: 0x1234 },
      idt: { base: 0x8000n, limit: 99 },
    }
    guest.vcpu.setSregs(changed)
    expect(guest.vcpu.getSregs()).toEqual(changed)
    expect(() => guest.vcpu.setSregs({ ...changed, cr4: 1n << 63n })).toThrow(KvmError)
  })

  test("the same with PDPTRs", ({ skip }) => {
    using guest = new Guest(asm.hlt)
    if (!guest.kvm.checkExtension(Cap.Sregs2)) skip("this kernel has no KVM_GET_SREGS2")
    const sregs = guest.vcpu.getSregs2()
    guest.vcpu.setSregs2({ ...sregs, cr2: 0x77n })
    expect(guest.vcpu.getSregs2()).toMatchObject({ cr2: 0x77n, flags: sregs.flags })
  })

  test("x87 and SSE registers", () => {
    using guest = new Guest(asm.hlt)
    const fpu = guest.vcpu.getFpu()
    const xmm = fpu.xmm.map((register, index) => register.map(() => index + 1))
    guest.vcpu.setFpu({ ...fpu, fcw: 0x27f, xmm })
    expect(guest.vcpu.getFpu()).toMatchObject({ fcw: 0x27f, xmm })
  })

  test("the XSAVE area, in both forms", () => {
    using guest = new Guest(asm.hlt)
    const area = guest.vcpu.getXsave()
    expect(area).toHaveLength(4096)
    area[0] = 0x7f
    guest.vcpu.setXsave(area)
    expect(guest.vcpu.getXsave()[0]).toBe(0x7f)
    expect(() => guest.vcpu.setXsave(area.subarray(1))).toThrow(/at least 4096 bytes/)
    const size = guest.vm.checkExtensionInt(Cap.Xsave2)
    if (size === 0) return
    expect(guest.vcpu.getXsave2(size)).toHaveLength(size)
    expect(() => guest.vcpu.getXsave2(100)).toThrow(/at least 4096 bytes/)
  })

  test("extended control registers", ({ skip }) => {
    using guest = new Guest(asm.hlt)
    expect(() => guest.vcpu.setXcrs(Array(17).fill({ xcr: 0, value: 1n }))).toThrow(/at most 16/)
    if (!guest.kvm.checkExtension(Cap.Xcrs)) skip("this processor has no XSAVE")
    const xcrs = guest.vcpu.getXcrs()
    guest.vcpu.setXcrs(xcrs)
    expect(guest.vcpu.getXcrs()).toEqual(xcrs)
  })

  test("debug registers", () => {
    using guest = new Guest(asm.hlt)
    const registers = { ...guest.vcpu.getDebugRegs(), db: [1n, 2n, 3n, 4n] }
    guest.vcpu.setDebugRegs(registers)
    expect(guest.vcpu.getDebugRegs()).toEqual(registers)
  })

  test("MSRs, in one request", () => {
    using guest = new Guest(asm.hlt)
    const entries = [
      { index: MSR_SYSENTER_CS, data: 0x10n },
      { index: MSR_STAR, data: 0x0023_0010_0000_0000n },
    ]
    expect(guest.vcpu.setMsrs(entries)).toBe(2)
    expect(guest.vcpu.getMsrs([MSR_SYSENTER_CS, MSR_STAR])).toEqual(entries)
  })

  test("MSRs up to the first that there is not", () => {
    using guest = new Guest(asm.hlt)
    const entry = { index: MSR_SYSENTER_CS, data: 1n }
    expect(guest.vcpu.setMsrs([entry, { index: 0x4b4b_4b4b, data: 0n }, entry])).toBe(1)
    expect(guest.vcpu.getMsrs([MSR_SYSENTER_CS, 0x4b4b_4b4b, MSR_STAR])).toEqual([entry])
    expect(() => guest.vcpu.getMsrs(Array(257).fill(MSR_STAR))).toThrow(/takes 0 to 256 entries/)
  })

  test("every MSR that the kernel lists can be read", () => {
    using guest = withApic()
    guest.vcpu.setCpuid2(guest.kvm.getSupportedCpuid())
    const list = guest.kvm.getMsrIndexList()
    expect(list).toContain(MSR_IA32_TSC)
    const readable = list.filter(index => guest.vcpu.getMsrs([index]).length === 1)
    expect(readable).toContain(MSR_STAR)
    expect(readable.length).toBeGreaterThan(list.length / 2)
  })

  test("the local APIC", () => {
    using guest = withApic()
    const { regs } = guest.vcpu.getLapic()
    regs[0x350] = 0x00
    regs[0x351] = 0x07
    guest.vcpu.setLapic({ regs })
    expect([...guest.vcpu.getLapic().regs.subarray(0x350, 0x352)]).toEqual([0x00, 0x07])
  })

  test("whether it runs", () => {
    using guest = withApic()
    expect(guest.vcpu.getMpState()).toEqual({ mp_state: KVM_MP_STATE_RUNNABLE })
    guest.vcpu.setMpState({ mp_state: KVM_MP_STATE_HALTED })
    expect(guest.vcpu.getMpState()).toEqual({ mp_state: KVM_MP_STATE_HALTED })
  })

  test("events under way", () => {
    using guest = withApic()
    const events = guest.vcpu.getVcpuEvents()
    const flags = KVM_VCPUEVENT_VALID_NMI_PENDING
    guest.vcpu.setVcpuEvents({ ...events, flags, nmi: { ...events.nmi, pending: 1 } })
    expect(guest.vcpu.getVcpuEvents().nmi).toMatchObject({ pending: 1 })
  })

  test("the clock", () => {
    using guest = new Guest(asm.hlt)
    const before = guest.vm.getClock()
    guest.vm.setClock({ ...before, flags: 0, clock: 10n ** 18n })
    expect(guest.vm.getClock().clock).toBeGreaterThanOrEqual(10n ** 18n)
  })

  test("nested virtualization, where there is any", ({ skip }) => {
    using guest = new Guest(asm.hlt)
    if (!guest.kvm.checkExtension(Cap.NestedState)) skip("this kernel has no nested state")
    guest.vcpu.setCpuid2(guest.kvm.getSupportedCpuid())
    const state = guest.vcpu.getNestedState()
    expect(state.length).toBeGreaterThanOrEqual(128)
    guest.vcpu.setNestedState(state)
    expect(guest.vcpu.getNestedState()).toEqual(state)
    expect(() => guest.vcpu.setNestedState(state.subarray(0, 100))).toThrow(/nested state of 100 bytes/)
  })
})

describe("CPUID", () => {
  test("the guest sees the entries that were set, and they can be read back", () => {
    using guest = new Guest([...asm.eax(0x4000_0000), ...asm.cpuid, ...asm.hlt])
    const name = { ebx: 0x11111111, ecx: 0x22222222, edx: 0x33333333 }
    const leaf = { function: 0x4000_0000, index: 0, flags: 0, eax: 0x4000_0001, ...name }
    const entries = [...guest.kvm.getSupportedCpuid().filter(entry => entry.function < 0x4000_0000), leaf]
    guest.vcpu.setCpuid2(entries)
    guest.expectExit("hlt")
    expect(guest.vcpu.getRegs()).toMatchObject({ rbx: 0x11111111n, rcx: 0x22222222n, rdx: 0x33333333n })
    expect(guest.vcpu.getCpuid2()).toContainEqual(leaf)
  })

  test("a list that is longer than the first guess is read whole", () => {
    using guest = new Guest(asm.hlt)
    const [first] = guest.kvm.getSupportedCpuid()
    const entries = Array.from({ length: 200 }, (_, index) => ({ ...first!, function: 0x5000_0000 + index }))
    guest.vcpu.setCpuid2(entries)
    expect(guest.vcpu.getCpuid2()).toHaveLength(200)
  })
})

describe("registers in the shared page", () => {
  test("come with each exit, and go with the next run", () => {
    using guest = new Guest([...asm.dx(0x402), ...asm.outAl, ...asm.outEax, ...asm.hlt])
    guest.vcpu.setSyncValidReg("regs")
    guest.expectExit("io")
    const { regs, ...rest } = guest.vcpu.syncRegs()
    expect(regs).toEqual(guest.vcpu.getRegs())
    guest.vcpu.setSyncRegs({ ...rest, regs: { ...regs, rax: 0xdead_beefn } })
    guest.vcpu.setSyncDirtyReg("regs")
    expect([...guest.expectExit("io").data]).toEqual([0xef, 0xbe, 0xad, 0xde])
  })
})

test("an address of the guest is translated by its own page tables: in real mode to itself", () => {
  using guest = new Guest(asm.hlt)
  expect(guest.vcpu.translateGva(0x1234n)).toMatchObject({ physical_address: 0x1234n, valid: 1 })
})

test("the rate of the TSC is known", () => {
  using guest = new Guest(asm.hlt)
  expect(guest.vcpu.getTscKhz()).toBeGreaterThan(0)
})

test("a guest without kvmclock cannot be told of a pause", () => {
  using guest = new Guest(asm.hlt)
  expect(() => guest.vcpu.kvmclockCtrl()).toThrow(/KVM_KVMCLOCK_CTRL failed with EINVAL/)
})

test("machine checks can be set up as far as the host has them", () => {
  using guest = new Guest(asm.hlt)
  guest.vcpu.setupMce(guest.kvm.getMceCapSupported() | 10n)
  expect(() => guest.vcpu.setupMce(0n)).toThrow(/KVM_X86_SETUP_MCE failed with EINVAL/)
  guest.vcpu.setMce({ status: 1n << 63n, addr: 0n, misc: 0n, mcg_status: 0n, bank: 1 })
})

test("a signal mask has 64 bits", () => {
  using guest = new Guest(asm.hlt)
  guest.vcpu.setSignalMask(1n << 63n)
  expect(() => guest.vcpu.setSignalMask(1n << 64n)).not.toThrow(TypeError)
})

test.each<[string, (vcpu: VcpuFd) => unknown]>([
  ["getRegs", vcpu => vcpu.getRegs()],
  ["run", vcpu => vcpu.run()],
  ["getXsave", vcpu => vcpu.getXsave()],
])("%s of a closed vCPU is an error of its own", (_, use) => {
  using guest = new Guest(asm.hlt)
  guest.vcpu.close()
  guest.vcpu.close()
  expect(guest.vcpu).toMatchObject({ fd: -1, closed: true })
  expect(() => use(guest.vcpu)).toThrow(expect.objectContaining({ code: "closed" }))
})
