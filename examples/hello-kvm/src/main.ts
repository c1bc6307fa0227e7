import { Kvm, KvmError, type VcpuFd, type VmFd } from "@ts-vmm/kvm-ioctls"
import { mmapMemory } from "@ts-vmm/vm-memory/mmap"

const CODE_ADDRESS = 0x1000
const PORT = 0x3f8

/** What the guest runs, in 16-bit real mode. The text follows it in memory. */
const CODE = [
  ...[0xbe, 0x0f, 0x10], //  mov si, text      (CODE_ADDRESS + 15)
  ...[0xba, 0xf8, 0x03], //  mov dx, PORT
  0xac, //             next: lodsb
  ...[0x84, 0xc0], //        test al, al
  ...[0x74, 0x03], //        jz end
  0xee, //                   out dx, al
  ...[0xeb, 0xf8], //        jmp next
  0xf4, //              end: hlt
]
const TEXT = "Hello, KVM!\n\0"

try {
  using kvm = new Kvm()
  using vm = kvm.createVm()
  using memory = mmapMemory([{ start: 0, size: 0x10000 }])
  memory.write(CODE_ADDRESS, Buffer.concat([Buffer.from(CODE), Buffer.from(TEXT)]))
  memory.regions.forEach(({ start, size }, slot) => {
    const { hostAddress } = memory.mappings[slot]!
    vm.setUserMemoryRegion({ slot, guestAddress: start, size, hostAddress })
  })
  runGuest(vm)
} catch (error) {
  if (!(error instanceof KvmError)) throw error
  console.error(error.message)
  process.exitCode = 1
}

function runGuest(vm: VmFd): void {
  using vcpu = vm.createVcpu(0)
  startAt(vcpu, CODE_ADDRESS)
  for (;;) {
    const exit = vcpu.run()
    if (exit.reason === "hlt") return
    if (exit.reason !== "io" || exit.port !== PORT)
      throw new KvmError("unexpected-exit", `the guest stopped: ${exit.reason}`)
    process.stdout.write(exit.data)
  }
}

/** A vCPU starts like a processor, at the reset vector below 4 GiB: put it into our code instead. */
function startAt(vcpu: VcpuFd, address: number): void {
  const sregs = vcpu.getSregs()
  vcpu.setSregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } })
  vcpu.setRegs({ ...vcpu.getRegs(), rip: BigInt(address), rflags: 2n })
}
