import type { MachineSpec } from "../hypervisor.js"

/**
 * The command line of a guest on KVM (Documentation/admin-guide/kernel-parameters.txt).
 *
 * - `reboot=k`, `panic=-1`: a guest that panics or reboots resets at once, which ends the machine.
 * - `pci=off`, `i8042.*`, `8250.nr_uarts`: what this machine does not have is not looked for.
 * - `no_timer_check`: the timer of a virtual machine ticks.
 */
export function kvmCommandLine(spec: Pick<MachineSpec, "kernelArguments">): string {
  return [
    "console=ttyS0",
    "quiet",
    "reboot=k",
    "panic=-1",
    "pci=off",
    "8250.nr_uarts=1",
    "i8042.noaux",
    "i8042.nomux",
    "i8042.dumbkbd",
    "no_timer_check",
    "tsc=reliable",
    "random.trust_cpu=on",
    ...spec.kernelArguments,
  ].join(" ")
}
