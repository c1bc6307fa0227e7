import { guestArtifacts } from "@ts-vmm/guest"
import { test } from "vitest"
import { stockGuest } from "../fixtures/stock-guest.js"
import { startMachine } from "./machine.js"
test("stock", { timeout: 100_000 }, async () => {
  for (const { kernel, initramfs } of [stockGuest(), { kernel: guestArtifacts().kernel("linux-kvm-x86_64"), initramfs: guestArtifacts().initramfs }]) {
    const t = performance.now()
    const { machine, text } = await startMachine({ kernel, initrd: initramfs, memoryMiB: 256, cpus: 2, cmdline: "console=ttyS0 tsvmm.probe panic=-1 reboot=k mitigations=off tsc=reliable" } as never)
    const timer = setTimeout(() => machine.stop(), 45_000)
    const end = await machine.exited
    clearTimeout(timer)
    process.stdout.write(`${kernel} ${end.kind} ${performance.now() - t}\n${text().slice(-700)}\n`)
  }
})
