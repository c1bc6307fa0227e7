import { BlockDevice, openFileBackend } from "@ts-vmm/virtio-devices/block"
import { MicroVm } from "@ts-vmm/vmm"
import { VsockDevice } from "@ts-vmm/vsock"

/** Host port that answers what the guest says in capitals. */
const ECHO_PORT = 5000

const [kernel, initramfs, disk] = process.argv.slice(2)
if (kernel === undefined || initramfs === undefined || disk === undefined) {
  console.error("usage: node main.js KERNEL INITRAMFS DISK")
  process.exit(2)
}

// Devices are written once, for every transport: here they will sit behind virtio-mmio.
const block = new BlockDevice(openFileBackend(disk))
const vsock = new VsockDevice({ guestCid: 3 })
vsock.listen(ECHO_PORT, stream => {
  stream.on("data", (bytes: Buffer) => stream.write(bytes.toString().toUpperCase()))
  stream.on("end", () => stream.end())
})

const machine = await MicroVm.create({
  kernel,
  initramfs,
  cmdline: "console=ttyS0 quiet panic=-1 reboot=k pci=off",
  memoryMiB: 256,
  cpus: 2,
  devices: [block, vsock],
})
machine.on("console", bytes => process.stdout.write(bytes))
machine.on("deviceBroken", error => console.error(`a device stopped: ${error.message}`))

process.stdin.on("data", bytes => machine.writeConsole(bytes))
process.once("SIGINT", () => machine.stop())
machine.start()

const { kind, description } = await machine.exited
process.stdin.destroy()
console.error(`the machine ended: ${description}`)
process.exitCode = kind === "power-off" || kind === "reset" ? 0 : 1
