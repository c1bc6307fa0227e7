// Boots N machines in this process, one after the other, each to its first program, which then only waits. Says so
// after each of the numbers of machines asked for, with the bytes of their RAM that are in use.
//   node idle-machines.mjs KERNEL INITRAMFS WORD COUNT…
import { fstatSync } from "node:fs"
import { MicroVm } from "../../packages/vmm/src/index.ts"

const [kernel, initramfs, word, ...counts] = process.argv.slice(2)
const cmdline = "console=ttyS0 quiet panic=-1 reboot=k pci=off 8250.nr_uarts=1 no_timer_check"
const machines = []

async function boot() {
  const machine = await MicroVm.create({ kernel, initramfs, cmdline, memoryMiB: 128 })
  const up = new Promise(resolve => {
    let said = ""
    machine.on("console", bytes => {
      said = (said + Buffer.from(bytes).toString("latin1")).slice(-4096)
      if (said.includes(word)) resolve()
    })
  })
  machine.start()
  await up
  machines.push(machine)
}

/** Guest RAM is memfds: their blocks are the pages that the guests touched. */
function guestBytes() {
  const fds = machines.flatMap(({ memory }) => memory.mappings.map(({ fd }) => fd))
  return fds.reduce((sum, fd) => sum + fstatSync(fd).blocks * 512, 0)
}

for (const count of counts.map(Number)) {
  while (machines.length < count) await boot()
  // What the boots left behind goes before anybody looks.
  globalThis.gc?.()
  process.stdout.write(`${JSON.stringify({ machines: count, guestBytes: guestBytes() })}\n`)
  await new Promise(resolve => process.stdin.once("data", resolve))
}
process.exit()
