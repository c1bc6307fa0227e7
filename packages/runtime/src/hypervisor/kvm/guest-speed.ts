import { Kvm, type VcpuFd } from "@ts-vmm/kvm-ioctls"
import { mmapMemory } from "@ts-vmm/vm-memory/mmap"

const CODE_ADDRESS = 0x1000
const MEMORY_SIZE = 0x2000
/** 50 ms where guest code is interpreted, a tenth of a millisecond on hardware. */
const ITERATIONS = 50_000
/** `dec` and `jnz`. */
const INSTRUCTIONS = 2 * ITERATIONS
/** On a host that is busy one measurement may be as slow as an interpreter. */
const TRIES = 6

/** In real mode, where operands of 32 bits take a prefix. */
const COUNT_DOWN = Uint8Array.of(
  ...[0x66, 0xb9, ...u32(ITERATIONS)], // start: mov ecx, ITERATIONS
  ...[0x66, 0x49], //                    loop:  dec ecx
  ...[0x75, 0xfc], //                           jnz loop
  0xf4, //                                      hlt
  ...[0xeb, 0xf3], //                           jmp start
)

/**
 * Runs a loop in a throw-away vCPU. A device node that opens says nothing about the processor behind it: there
 * are KVMs that interpret the code of guests which were not built for them.
 *
 * @param enough as soon as a measurement is this fast, no further one is made
 * @returns guest instructions a second, the best of a few measurements
 * @throws KvmError `unavailable` when there is no KVM for this user, `ioctl`
 */
export function guestInstructionsPerSecond(enough: number): number {
  using kvm = new Kvm()
  using vm = kvm.createVm()
  using memory = mmapMemory([{ start: 0, size: MEMORY_SIZE }])
  memory.write(CODE_ADDRESS, COUNT_DOWN)
  const { hostAddress } = memory.mappings[0]!
  vm.setUserMemoryRegion({ slot: 0, guestAddress: 0, size: MEMORY_SIZE, hostAddress })
  using vcpu = vm.createVcpu(0)
  const sregs = vcpu.getSregs()
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } })
  vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(CODE_ADDRESS), rflags: 2n })
  let best = 0
  for (let tries = 0; tries < TRIES && best < enough; tries++) best = Math.max(best, measure(vcpu))
  return best
}

/** One count-down, from where the last one ended. */
function measure(vcpu: VcpuFd): number {
  const startedAt = performance.now()
  for (let exit = vcpu.run(); exit.reason !== "hlt"; exit = vcpu.run()) {
    if (exit.reason !== "intr") throw new Error(`the test guest ended with ${exit.reason}`)
  }
  return INSTRUCTIONS / ((performance.now() - startedAt) / 1000)
}

function u32(value: number): number[] {
  return [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >>> 24]
}
