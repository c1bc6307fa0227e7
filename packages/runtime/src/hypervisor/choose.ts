import { SandboxError } from "../errors.js"
import type { SandboxConfig } from "../options.js"
import type { Hypervisor, HypervisorProbe } from "./hypervisor.js"
import { KvmHypervisor } from "./kvm/kvm-hypervisor.js"
import { probeKvm } from "./kvm/probe.js"
import { UmlHypervisor } from "./uml/uml-hypervisor.js"

/** What the choice goes by. */
type Wanted = Pick<SandboxConfig, "hypervisor" | "umlMode" | "kernel">

/**
 * The driver for a configuration. `auto` is `kvm` where guest code runs on the processor, else `uml`.
 *
 * @throws SandboxError `hypervisor-unavailable` for `kvm` where no stock kernel can boot; a kernel that somebody
 * names may have been built for an odd KVM, so then it is tried
 */
export async function chooseHypervisor({ hypervisor, umlMode, kernel }: Wanted): Promise<Hypervisor> {
  const given = kernel === undefined ? {} : { kernel }
  if (hypervisor === "uml") return new UmlHypervisor({ mode: umlMode, ...given })
  const { present, usable, reason } = await probeKvm()
  if (usable || (hypervisor === "kvm" && present && kernel !== undefined)) return new KvmHypervisor(given)
  if (hypervisor === "kvm") throw new SandboxError("hypervisor-unavailable", reason)
  return new UmlHypervisor({ mode: umlMode, ...given })
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
  const kvm = await probeKvm()
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
