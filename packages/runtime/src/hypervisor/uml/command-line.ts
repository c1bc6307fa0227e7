import type { MachineSpec, UmlMode } from "../hypervisor.js"

/** One vhost-user device on UML's command line. */
export interface UmlDevice {
  readonly socketPath: string
  /** virtio device type number (virtio 1.3, section 5). */
  readonly type: number
}

/**
 * Loops per jiffy at HZ=100. Given on the command line so that the guest does not spend 40 ms to measure
 * it; only the length of short busy-waits in drivers depends on it.
 */
const LOOPS_PER_JIFFY = 36_552_704

/**
 * The command line of a UML kernel (Documentation/virt/uml, arch/um `--help`).
 *
 * - `con0=null,fd:1 con=null`: the guest's console goes to our pipe, and UML opens no terminal of its own.
 * - `noreboot`: a guest that reboots ends, as under `-no-reboot` elsewhere.
 * - `uml_dir`, `umid`: UML's own files go into the sandbox's folder and not below HOME.
 */
export function umlCommandLine(spec: MachineSpec, devices: readonly UmlDevice[], mode: UmlMode): string[] {
  return [
    `mem=${spec.memoryMiB}M`,
    `initrd=${spec.initramfs}`,
    `uml_dir=${spec.directory}/`,
    "umid=uml",
    "con0=null,fd:1",
    "con=null",
    "noreboot",
    "quiet",
    `lpj=${LOOPS_PER_JIFFY}`,
    // `seccomp=auto` would fall back without a word, and the two modes are not equally safe.
    mode === "seccomp" ? "seccomp=on" : "seccomp=off",
    ...devices.map(device => `virtio_uml.device=${device.socketPath}:${device.type}`),
    ...spec.kernelArguments,
  ]
}
