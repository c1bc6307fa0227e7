// From the start of a process to the word of the guest's first program, same kernel, initramfs and command line: our
// machine beside QEMU's microvm on the same KVM. The first program is the agent, which says its word and powers off.
import { existsSync } from "node:fs"
import { ROOT } from "../../scripts/setup/paths.mjs"
import { goals } from "../harness.mjs"
import { bundle } from "../kvm/bundle.mjs"
import { timeToWord } from "../kvm/guest-word.mjs"
import { requireKvm } from "../kvm/require-kvm.mjs"
import { which } from "../process.mjs"

const KERNEL = `${ROOT}/packages/guest/build/kernels/linux-kvm-x86_64`
const INITRAMFS = `${ROOT}/packages/guest/build/initramfs.cpio`
const WORD = "tsvmm: probe ok"
const CMDLINE = "console=ttyS0 tsvmm.probe quiet panic=-1 reboot=k pci=off 8250.nr_uarts=1 no_timer_check"
/** As lean as QEMU's machine for this gets: no PIT, RTC or PIC where the guest can do without. */
const MICROVM = "microvm,isa-serial=on,rtc=off,pic=off,pit=off"

const qemu = memoryMiB => [
  ...["qemu-system-x86_64", "-M", MICROVM, "-accel", "kvm", "-cpu", "host", "-m", String(memoryMiB)],
  ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"],
  ...["-kernel", KERNEL, "-initrd", INITRAMFS, "-append", CMDLINE],
]

export default {
  name: "kvm-boot",
  description: "cold boot on KVM, process start to the guest's first program",
  async prepare({ folder }) {
    await requireKvm()
    const program = await bundle("cold-boot", folder)
    const ours = memoryMiB => () =>
      timeToWord([process.execPath, program, KERNEL, INITRAMFS, String(memoryMiB), CMDLINE, WORD], "ready")
    const peer = which("qemu-system-x86_64")
      ? { peer: { name: "qemu microvm", measure: () => timeToWord(qemu(128), WORD) } }
      : { missing: "qemu-system-x86_64 is not installed" }
    if (!existsSync(KERNEL)) throw new Error(`${KERNEL} is missing`)
    return [
      {
        name: "128 MiB",
        unit: "ms",
        better: "lower",
        ours: ours(128),
        ...peer,
        goal: goals.ratioAtMost(0.6),
      },
      {
        name: "4 GiB, beside 128 MiB",
        unit: "ms",
        better: "lower",
        ours: ours(4096),
        peer: { name: "ours with 128 MiB", measure: ours(128) },
        goal: goals.ratioAtMost(1.1),
      },
    ]
  },
}
