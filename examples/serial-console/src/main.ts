import { openSync } from "node:fs"
import { Cap, Kvm, VcpuThread } from "@ts-vmm/kvm-ioctls"
import * as loader from "@ts-vmm/linux-loader"
import { closeFd, ExitTable, eventFd, signal } from "@ts-vmm/native"
import { mmapMemory } from "@ts-vmm/vm-memory/mmap"
import * as machine from "@ts-vmm/vmm"
import { I8042, I8042_SIZE, SERIAL_SIZE, Serial } from "@ts-vmm/vmm/superio"

const [kernelPath, initrdPath] = process.argv.slice(2)
if (kernelPath === undefined) {
  console.error("usage: node main.js KERNEL [INITRD]")
  process.exit(2)
}

// RAM, and what is in it: the kernel, its command line, the map of memory, the interrupts.
const memory = mmapMemory(machine.memoryRegions(256 * 2 ** 20))
const kernel = loader.loadKernel(memory, loader.fileImage(openSync(kernelPath, "r")))
const initrd = initrdPath && loader.loadInitrd(memory, loader.fileImage(openSync(initrdPath, "r")), kernel)
const bootParams = loader.writeBootParams(memory, {
  ...(initrd ? { initrd } : {}),
  kernel,
  cmdline: new loader.Cmdline("console=ttyS0 reboot=k panic=-1 pci=off"),
  memoryMap: loader.defaultMemoryMap(memory),
})
loader.writeMpTable(memory, { cpus: [{ apicId: 0 }], ioapic: { id: 1, address: loader.IOAPIC_START } })

// The virtual machine: interrupt controllers, memory slots, one processor in 64-bit mode at the kernel's entry.
const kvm = new Kvm()
const vm = kvm.createVm()
vm.setTssAddress(machine.KVM_TSS_ADDRESS)
const { hasPic } = machine.createInterruptController(vm, { kind: "full" })
for (const [slot, { start, size }] of memory.regions.entries())
  vm.setUserMemoryRegion({ slot, guestAddress: start, size, hostAddress: memory.mappings[slot]!.hostAddress })
const vcpu = vm.createVcpu(0)
const tscDeadlineTimer = kvm.checkExtension(Cap.TscDeadlineTimer)
vcpu.setCpuid2(machine.vcpuCpuid(kvm.getSupportedCpuid(), { vcpuIndex: 0, vcpuCount: 1, tscDeadlineTimer }))
machine.setUpMsrs(vcpu)
machine.setUpFpu(vcpu)
machine.setUpLapic(vcpu, hasPic)
machine.setUpLongMode(vcpu, memory, { entry: kernel.entry, bootParams })

// Two devices on the port bus: a serial port on our terminal, and the keyboard controller's reset line as the exit.
const irq = eventFd()
vm.registerIrqfd(irq, machine.COM1_GSI)
const serial = new Serial({ interrupt: () => signal(irq), output: bytes => process.stdout.write(bytes) })
const ports = new machine.Bus()
  .insert({ base: machine.COM1_PORT, size: SERIAL_SIZE }, serial)
  .insert({ base: machine.I8042_PORT, size: I8042_SIZE }, new I8042({ onReset: () => thread.stop() }))

// Exits at their ports come here; all others the thread answers by itself, as a bus where nobody sits.
const rows = ports.entries.map(({ base, size }) => {
  return { space: "pio", start: base, end: base + size, read: "deliver", write: "deliver" } as const
})
const thread = new VcpuThread(vcpu, {
  index: 0,
  answers: new ExitTable({ rows }),
  onExit: exit => {
    if (exit.reason === "io" && exit.direction === "in") ports.read(exit.port, exit.data)
    else if (exit.reason === "io") return ports.write(exit.port, exit.data)
    else void thread.stop()
  },
})

process.stdin.on("data", bytes => serial.enqueue(bytes))
if (process.stdin.isTTY) process.stdin.setRawMode(true)
thread.start()
await thread.ended
process.stdin.destroy()
closeFd(irq)
for (const owner of [vcpu, vm, kvm, memory]) owner.close()
