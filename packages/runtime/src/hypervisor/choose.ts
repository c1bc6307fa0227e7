import type { SandboxConfig } from "../options.js"
import type { Hypervisor, HypervisorProbe } from "./hypervisor.js"
import { UmlHypervisor } from "./uml/uml-hypervisor.js"

/**
 * The driver for a configuration. `auto` means `uml` as long as it is the only one; a driver for KVM takes
 * its seat here, behind its probe.
 */
export function chooseHypervisor(
  config: Pick<SandboxConfig, "hypervisor" | "umlMode">,
  kernel?: string,
): Hypervisor {
  return new UmlHypervisor({ mode: config.umlMode, ...(kernel === undefined ? {} : { kernel }) })
}

/** A probe's result and what was probed. */
export interface NamedProbe extends HypervisorProbe {
  readonly hypervisor: string
}

/**
 * Runs a throw-away guest on every hypervisor, in each of its modes.
 *
 * @example
 * ```ts
 * import { probeHypervisors } from "@ts-vmm/runtime"
 *
 * for (const { hypervisor, usable, reason } of await probeHypervisors()) console.log(hypervisor, usable, reason)
 * ```
 */
export async function probeHypervisors(): Promise<NamedProbe[]> {
  const probes: NamedProbe[] = []
  for (const mode of ["ptrace", "seccomp"] as const) {
    probes.push({ hypervisor: `uml (${mode})`, ...(await new UmlHypervisor({ mode }).probe()) })
  }
  probes.push({ hypervisor: "kvm", usable: false, reason: "this version has no KVM driver" })
  return probes
}
