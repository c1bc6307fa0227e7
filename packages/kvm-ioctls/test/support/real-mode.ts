import { type ExitRow, ExitTable, type ExitTableOptions, Mapping } from "@ts-vmm/native"
import { Kvm } from "../../src/kvm.js"
import type { VcpuFd } from "../../src/vcpu.js"
import type { VmFd } from "../../src/vm.js"

/** Guest memory; what is above has no slot and exits as MMIO. */
export const MEMORY_SIZE = 0x10000
/** First code of vCPU `n` is at `(n + 1) * CODE_STRIDE`. */
const CODE_STRIDE = 0x1000

/** The two bytes of a 16-bit immediate. */
export const imm16 = (value: number): number[] => [value & 0xff, (value >> 8) & 0xff]
/** The four bytes of a 32-bit immediate. */
export const imm32 = (value: number): number[] => [...imm16(value), ...imm16(value >>> 16)]

/** 16-bit machine code: `body` `times` times with ECX as the counter and DX = `port`, then HLT. */
export function loop(times: number, port: number, body: readonly number[]): number[] {
  const back = -(body.length + 4)
  return [
    ...[0x66, 0xb9, ...imm32(times)], //  mov ecx, times
    ...[0xba, ...imm16(port)], //         mov dx, port
    ...body,
    ...[0x66, 0x49], //                   dec ecx
    ...[0x75, back & 0xff], //            jnz body
    HLT,
  ]
}

export const IN_AL_DX = 0xec
export const OUT_DX_AL = 0xee
export const HLT = 0xf4
/** CLI; JMP to itself: nothing but a kick gets the vCPU out. */
export const SPIN = [0xfa, 0xeb, 0xfe]

/** A machine for guests of a few bytes in real mode. */
export class RealModeVm implements Disposable {
  readonly kvm = new Kvm()
  readonly vm: VmFd
  readonly memory: Mapping
  readonly view: DataView
  readonly #vcpus: VcpuFd[] = []

  constructor(options: { readonly irqchip?: boolean } = {}) {
    this.vm = this.kvm.createVm()
    if (options.irqchip) this.vm.createIrqChip()
    this.memory = Mapping.create({ name: "real-mode", size: MEMORY_SIZE })
    this.view = new DataView(this.memory.buffer)
    const { hostAddress } = this.memory
    this.vm.setUserMemoryRegion({ slot: 0, guestAddress: 0, size: MEMORY_SIZE, hostAddress })
  }

  /** One more vCPU, which is to run `code` next. */
  addVcpu(code: readonly number[]): VcpuFd {
    const index = this.#vcpus.length
    const address = (index + 1) * CODE_STRIDE
    new Uint8Array(this.memory.buffer).set(code, address)
    const vcpu = this.vm.createVcpu(index)
    this.#vcpus.push(vcpu)
    const sregs = vcpu.getSregs()
    vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } })
    vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(address), rsp: 0xf000n, rflags: 2n })
    return vcpu
  }

  [Symbol.dispose](): void {
    for (const vcpu of this.#vcpus) vcpu.close()
    this.vm.close()
    this.kvm.close()
    this.memory.close()
  }
}

/** A table with `rows`, and ports 0x10 to 0x1f delivered. */
export function tableWith(rows: readonly ExitRow[] = [], options: Partial<ExitTableOptions> = {}): ExitTable {
  const delivered: ExitRow = { space: "pio", start: 0x10, end: 0x20, read: "deliver", write: "deliver" }
  return new ExitTable({ cells: 4, ...options, rows: [delivered, ...rows] })
}
