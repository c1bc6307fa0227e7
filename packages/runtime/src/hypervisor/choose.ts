import type { SandboxConfig } from "../options.js"
import type { Hypervisor, HypervisorProbe } from "./hypervisor.js"
import { KvmHypervisor } from "./kvm/kvm-hypervisor.js"
import { probeKvm } from "./kvm/probe.js"
import { UmlHypervisor } from "./uml/uml-hypervisor.js"

/** What the choice goes by. */
type Wanted = Pick<SandboxConfig, "hypervisor" | "umlMode" | "kernel">

/** The driver for a configuration. `auto` is `kvm` where guest code runs on the processor, else `uml`. */
export function chooseHypervisor(config: Wanted): Hypervisor {
  const kernel = config.kernel === undefined ? {} : { kernel: config.kernel }
  if (config.hypervisor === "uml") return new UmlHypervisor({ mode: config.umlMode, ...kernel })
  if (config.hypervisor === "kvm") return new KvmHypervisor(kernel)
  const probe = probeKvm()
  return probe.usable
    ? new KvmHypervisor({ probe, ...kernel })
    : new UmlHypervisor({ mode: config.umlMode, ...kernel })
}

/** A probe's result and what was probed. */
export interface NamedProbe extends HypervisorProbe {
  readonly hypervisor: string
  /** `auto` takes this one. */
  readonly chosen: boolean
}

/**
 * Runs guest code on every hypervisor, in each of its modes.
 *
 * @example
 * ```ts
 * import { probeHypervisors } from "@ts-vmm/runtime"
 *
 * for (const { hypervisor, usable, reason } of await probeHypervisors()) console.log(hypervisor, usable, reason)
 * ```
 */
export async function probeHypervisors(): Promise<NamedProbe[]> {
  const kvm = probeKvm()
  const probes: NamedProbe[] = [{ hypervisor: "kvm", ...describe(kvm), chosen: kvm.usable }]
  for (const mode of ["ptrace", "seccomp"] as const) {
    const probe = await new UmlHypervisor({ mode }).probe()
    probes.push({ hypervisor: `uml (${mode})`, ...probe, chosen: !kvm.usable && mode === "ptrace" })
  }
  return probes
}

function describe({ usable, reason }: HypervisorProbe): HypervisorProbe {
  return { usable, reason: usable ? reason : `${reason}; using uml` }
}
