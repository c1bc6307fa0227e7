import { describe, expect, test } from "vitest"
import {
  Cap,
  KVM_GUESTDBG_ENABLE,
  KVM_GUESTDBG_SINGLESTEP,
  KVM_MSR_EXIT_REASON_FILTER,
  KVM_MSR_FILTER_READ,
  KVM_MSR_FILTER_WRITE,
} from "../../src/index.js"
import { asm, CODE_ADDRESS, Guest } from "./guest.js"

/** No memory slot is there: real mode reaches it as 0xf000:0. */
const MMIO_SEGMENT = 0xf000
const MMIO_ADDRESS = 0xf0000

describe("ports", () => {
  test.each([
    { name: "byte", out: asm.outAl, size: 1, data: [0x34] },
    { name: "word", out: asm.outAx, size: 2, data: [0x34, 0x12] },
    { name: "long", out: asm.outEax, size: 4, data: [0x34, 0x12, 0, 0] },
  ])("a $name written to a port is an exit with its bytes", ({ out, size, data }) => {
    using guest = new Guest([...asm.eax(0x1234), ...asm.dx(0x402), ...out, ...asm.hlt])
    const exit = guest.expectExit("io")
    expect(exit).toMatchObject({ direction: "out", port: 0x402, size, count: 1 })
    expect([...exit.data]).toEqual(data)
    guest.expectExit("hlt")
  })

  test("what is put into the page answers a read", () => {
    using guest = new Guest([...asm.dx(0x71), ...asm.inAx, ...asm.storeAx(0x500), ...asm.hlt])
    const exit = guest.expectExit("io")
    expect(exit).toMatchObject({ direction: "in", port: 0x71, size: 2, count: 1 })
    exit.data.set([0xcd, 0xab])
    guest.expectExit("hlt")
    expect([...guest.bytes.subarray(0x500, 0x502)]).toEqual([0xcd, 0xab])
  })

  test("a string instruction hands over all of its bytes, in one exit or in several", () => {
    // mov si, 0x600; mov cx, 5; rep outsb
    const outs = [0xbe, 0x00, 0x06, 0xb9, 0x05, 0x00, 0xf3, 0x6e]
    using guest = new Guest([...asm.dx(0x3f8), ...outs, ...asm.hlt])
    guest.bytes.set(Buffer.from("hello"), 0x600)
    let text = ""
    for (let exit = guest.vcpu.run(); exit.reason === "io"; exit = guest.vcpu.run()) {
      expect(exit.data.length).toBe(exit.size * exit.count)
      text += Buffer.from(exit.data).toString("latin1")
    }
    expect(text).toBe("hello")
  })
})

describe("memory that no slot backs", () => {
  test("a write is an exit with address and bytes", () => {
    using guest = new Guest([...asm.ds(MMIO_SEGMENT), ...asm.eax(0x11223344), ...asm.storeEax(8), ...asm.hlt])
    const exit = guest.expectExit("mmio")
    expect(exit).toMatchObject({ address: MMIO_ADDRESS + 8, isWrite: true })
    expect([...exit.data]).toEqual([0x44, 0x33, 0x22, 0x11])
    guest.expectExit("hlt")
  })

  test("what is put into the page answers a read", () => {
    using guest = new Guest([...asm.ds(MMIO_SEGMENT), ...asm.loadEax(4), ...asm.hlt])
    const exit = guest.expectExit("mmio")
    expect(exit).toMatchObject({ address: MMIO_ADDRESS + 4, isWrite: false })
    expect(exit.data.length).toBe(4)
    exit.data.set([1, 2, 3, 4])
    guest.expectExit("hlt")
    expect(guest.vcpu.getRegs().rax).toBe(0x04030201n)
  })
})

describe("other exits", () => {
  test("a triple fault is a shutdown", () => {
    // An empty IDT: lidt [0x700], then ud2.
    using guest = new Guest([0x0f, 0x01, 0x1e, 0x00, 0x07, 0x0f, 0x0b])
    guest.expectExit("shutdown")
  })

  test("immediate exit stops a guest before its first instruction, again and again, until it is switched off", () => {
    using guest = new Guest(asm.hlt)
    guest.vcpu.setImmediateExit(true)
    guest.expectExit("intr")
    guest.expectExit("intr")
    expect(guest.vcpu.getRegs().rip).toBe(BigInt(CODE_ADDRESS))
    guest.vcpu.setImmediateExit(false)
    guest.expectExit("hlt")
  })

  test("single steps are debug exits with the next instruction's address", () => {
    using guest = new Guest([...asm.nop, ...asm.nop, ...asm.hlt])
    guest.vcpu.setGuestDebug({ control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP })
    expect(guest.expectExit("debug")).toMatchObject({
      arch: "x86-64",
      exception: 1,
      pc: BigInt(CODE_ADDRESS + 1),
    })
    expect(guest.expectExit("debug")).toMatchObject({ pc: BigInt(CODE_ADDRESS + 2) })
    guest.vcpu.setGuestDebug({ control: 0 })
    guest.expectExit("hlt")
  })

  test("without a local APIC in the kernel, the interrupt window and the vector are the program's", () => {
    // sti; nop; jmp $ with the handler of vector 0x20 at 0x2000: mov al, 0x77; hlt
    using guest = new Guest([...asm.sti, ...asm.nop, ...asm.spin])
    guest.load([0x00, 0x20, 0x00, 0x00], 0x20 * 4)
    guest.load([0xb0, 0x77, ...asm.hlt], 0x2000)
    guest.vcpu.setRequestInterruptWindow(true)
    guest.expectExit("irq-window-open")
    expect(guest.vcpu.readyForInterruptInjection).toBe(true)
    expect(guest.vcpu.interruptFlag).toBe(true)
    guest.vcpu.setRequestInterruptWindow(false)
    guest.vcpu.interrupt(0x20)
    guest.expectExit("hlt")
    expect(guest.vcpu.getRegs().rax & 0xffn).toBe(0x77n)
  })
})

describe("MSRs that the program answers", () => {
  const MSR = 0xc000_0103
  const filter = {
    default: "allow" as const,
    ranges: [
      {
        flags: KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
        base: MSR,
        nmsrs: 8,
        bitmap: Uint8Array.of(0),
      },
    ],
  }

  function filtered(code: readonly number[]): Guest {
    return new Guest(code, vm => {
      vm.enableCap(Cap.X86UserSpaceMsr, [KVM_MSR_EXIT_REASON_FILTER])
      vm.setMsrFilter(filter)
    })
  }

  test("a refused read asks, and the answer arrives in edx:eax", () => {
    using guest = filtered([...asm.ecx(MSR), ...asm.rdmsr, ...asm.hlt])
    const exit = guest.expectExit("x86-rdmsr")
    expect(exit).toMatchObject({ index: MSR, cause: KVM_MSR_EXIT_REASON_FILTER })
    exit.answer(0x1111_2222_3333_4444n)
    guest.expectExit("hlt")
    expect(guest.vcpu.getRegs()).toMatchObject({ rax: 0x3333_4444n, rdx: 0x1111_2222n })
  })

  test("a refused write shows its value; refusing it is #GP in the guest, and here a triple fault", () => {
    using guest = filtered([
      ...[0x0f, 0x01, 0x1e, 0x00, 0x07], // lidt [0x700]: no handlers
      ...asm.ecx(MSR),
      ...asm.eax(5),
      ...asm.edx(0),
      ...asm.wrmsr,
      ...asm.hlt,
    ])
    const exit = guest.expectExit("x86-wrmsr")
    expect(exit).toMatchObject({ index: MSR, value: 5n })
    exit.refuse()
    guest.expectExit("shutdown")
  })

  test("an accepted write goes on", () => {
    using guest = filtered([...asm.ecx(MSR), ...asm.eax(5), ...asm.edx(0), ...asm.wrmsr, ...asm.hlt])
    guest.expectExit("x86-wrmsr").accept()
    guest.expectExit("hlt")
  })
})
