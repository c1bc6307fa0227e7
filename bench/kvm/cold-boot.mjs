// Boots a kernel in a machine of our own and ends when the guest's first program has said its word.
//   node cold-boot.mjs KERNEL INITRAMFS MEMORY-MIB COMMAND-LINE WORD
import { MicroVm } from "../../packages/vmm/src/index.ts"

const [kernel, initramfs, memoryMiB, cmdline, word] = process.argv.slice(2)
const machine = await MicroVm.create({ kernel, initramfs, cmdline, memoryMiB: Number(memoryMiB) })
let said = ""
machine.on("console", bytes => {
  said += Buffer.from(bytes).toString("latin1")
  if (said.includes(word)) process.stdout.write("ready\n")
})
machine.start()
const { description } = await machine.exited
process.stderr.write(`${description}\n`)
