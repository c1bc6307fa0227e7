import type { IrqRoute } from "@ts-vmm/kvm-ioctls"
import { beforeEach, describe, expect, test } from "vitest"
import { createInterruptController, type InterruptController, type InterruptVm } from "./irqchip.js"

/** Records what is asked of the VM. */
class FakeVm implements InterruptVm {
  readonly calls: unknown[][] = []
  routes: readonly IrqRoute[] = []
  readonly messages: { address_lo: number; data: number }[] = []

  createIrqChip(): void {
    this.calls.push(["createIrqChip"])
  }

  createPit2(flags?: number): void {
    this.calls.push(["createPit2", flags])
  }

  enableCap(...args: unknown[]): void {
    this.calls.push(["enableCap", ...args])
  }

  setIrqLine(irq: number, active: boolean): void {
    this.calls.push(["setIrqLine", irq, active])
  }

  setGsiRouting(routes: readonly IrqRoute[]): void {
    this.routes = routes
  }

  signalMsi({ address_lo, data }: { address_lo: number; data: number }): number {
    this.messages.push({ address_lo, data })
    return 1
  }
}

let vm: FakeVm

beforeEach(() => {
  vm = new FakeVm()
})

describe("full", () => {
  test("is PIC, I/O APIC and PIT in the kernel, with a dummy for the speaker port", () => {
    const interrupts = createInterruptController(vm, { kind: "full" })
    expect(vm.calls).toEqual([["createIrqChip"], ["createPit2", 1]])
    expect(interrupts).toMatchObject({ kind: "full", hasPic: true })
    expect(interrupts.ioapicDevice).toBeUndefined()
    expect(interrupts.onEoi).toBeUndefined()
  })

  test("raises an interrupt as an edge on its line", () => {
    createInterruptController(vm, { kind: "full" }).raise(4)
    expect(vm.calls.slice(2)).toEqual([
      ["setIrqLine", 4, true],
      ["setIrqLine", 4, false],
    ])
  })
})

describe("split", () => {
  let interrupts: InterruptController

  beforeEach(() => {
    interrupts = createInterruptController(vm, { kind: "split" })
  })

  /** What a driver does: select a register, then use the window. */
  function writeRegister(register: number, value: number): void {
    const word = new Uint8Array(4)
    interrupts.ioapicDevice!.write(0x00, Uint8Array.of(register, 0, 0, 0))
    new DataView(word.buffer).setUint32(0, value, true)
    interrupts.ioapicDevice!.write(0x10, word)
  }

  test("reserves a route for each of the 24 pins and creates neither PIC nor PIT", () => {
    expect(vm.calls).toEqual([["enableCap", 121, [24]]])
    expect(interrupts).toMatchObject({ kind: "split", hasPic: false })
  })

  test("raises an interrupt as a message, once the guest has routed its pin", () => {
    interrupts.raise(4)
    expect(vm.messages).toEqual([])
    writeRegister(0x19, 2 << 24)
    writeRegister(0x18, 0x31)
    interrupts.raise(4)
    expect(vm.messages).toEqual([{ address_lo: 0xfee0_2000, data: 0x4031 }])
    expect(vm.routes).toEqual([{ gsi: 4, msi: { address_lo: 0xfee0_2000, address_hi: 0, data: 0x4031 } }])
  })

  test("an end of interrupt reaches the I/O APIC: the next level goes out", () => {
    writeRegister(0x18, 0x8031)
    interrupts.raise(4)
    interrupts.raise(4)
    expect(vm.messages).toHaveLength(1)
    interrupts.onEoi!(0x31)
    interrupts.raise(4)
    expect(vm.messages).toEqual([
      { address_lo: 0xfee0_0000, data: 0xc031 },
      { address_lo: 0xfee0_0000, data: 0xc031 },
    ])
  })
})
