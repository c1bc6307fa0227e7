import { Mapping } from "@ts-vmm/native"
import { Kvm, type VcpuExit, type VcpuFd, type VmFd } from "../../src/index.js"

/** Where code is put: its first 64 KiB segment is all that a real mode guest sees. */
export const CODE_ADDRESS = 0x1000
export const RAM_SIZE = 0x20000

/** A VM with a bit of memory and one vCPU in 16-bit real mode; all is closed together. */
export class Guest implements Disposable {
  readonly kvm = new Kvm()
  readonly vm: VmFd
  readonly ram = Mapping.create({ name: "ram", size: RAM_SIZE })
  readonly bytes = new Uint8Array(this.ram.buffer)
  readonly vcpu: VcpuFd

  /**
   * @param code - machine code, at {@link CODE_ADDRESS}
   * @param prepare - what the VM needs before the vCPU is made
   * @param flags - of the memory slot
   */
  constructor(code: readonly number[], prepare: (vm: VmFd) => void = () => undefined, flags = 0) {
    this.vm = this.kvm.createVm()
    this.vm.setTssAddress(0xfffb_d000)
    prepare(this.vm)
    this.load(code)
    this.vm.setUserMemoryRegion(this.slot(flags))
    this.vcpu = this.vm.createVcpu(0)
    this.start()
  }

  /** Slot 0: all of the memory at guest address 0. */
  slot(flags = 0) {
    return { slot: 0, flags, guestAddress: 0, size: RAM_SIZE, hostAddress: this.ram.hostAddress }
  }

  load(code: readonly number[], address = CODE_ADDRESS): void {
    this.bytes.set(code, address)
  }

  /** Back to the first instruction. */
  start(address = CODE_ADDRESS): void {
    const sregs = this.vcpu.getSregs()
    this.vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } })
    this.vcpu.setRegs({ ...this.vcpu.getRegs(), rip: BigInt(address), rsp: 0x8000n, rflags: 2n })
  }

  /** The next exit, which must be of this kind. */
  expectExit<R extends VcpuExit["reason"]>(reason: R): Extract<VcpuExit, { reason: R }> {
    const exit = this.vcpu.run()
    if (exit.reason !== reason)
      throw new Error(`expected exit ${reason}, not ${JSON.stringify(exit, bigints)}`)
    return exit as Extract<VcpuExit, { reason: R }>
  }

  [Symbol.dispose](): void {
    this.vcpu.close()
    this.vm.close()
    this.kvm.close()
    this.ram.close()
  }
}

const bigints = (_: string, value: unknown) => (typeof value === "bigint" ? `0x${value.toString(16)}` : value)

/** 16-bit machine code. */
export const asm = {
  hlt: [0xf4],
  sti: [0xfb],
  cli: [0xfa],
  nop: [0x90],
  iret: [0xcf],
  /** mov ax, value */
  ax: (value: number) => [0xb8, value & 255, value >> 8],
  /** mov eax, value */
  eax: (value: number) => [0x66, 0xb8, ...le32(value)],
  ecx: (value: number) => [0x66, 0xb9, ...le32(value)],
  edx: (value: number) => [0x66, 0xba, ...le32(value)],
  dx: (value: number) => [0xba, value & 255, value >> 8],
  /** mov ds, ax with ax = value */
  ds: (value: number) => [0xb8, value & 255, value >> 8, 0x8e, 0xd8],
  outAl: [0xee],
  outAx: [0xef],
  outEax: [0x66, 0xef],
  inAl: [0xec],
  inAx: [0xed],
  inEax: [0x66, 0xed],
  /** mov [offset], al / ax / eax */
  storeAl: (offset: number) => [0xa2, offset & 255, offset >> 8],
  storeAx: (offset: number) => [0xa3, offset & 255, offset >> 8],
  storeEax: (offset: number) => [0x66, 0xa3, offset & 255, offset >> 8],
  /** mov al / ax / eax, [offset] */
  loadAl: (offset: number) => [0xa0, offset & 255, offset >> 8],
  loadEax: (offset: number) => [0x66, 0xa1, offset & 255, offset >> 8],
  rdmsr: [0x0f, 0x32],
  wrmsr: [0x0f, 0x30],
  cpuid: [0x0f, 0xa2],
  /** jmp to itself */
  spin: [0xeb, 0xfe],
} as const

function le32(value: number): number[] {
  return [value & 255, (value >> 8) & 255, (value >> 16) & 255, (value >>> 24) & 255]
}
