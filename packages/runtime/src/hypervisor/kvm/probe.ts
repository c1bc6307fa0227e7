import { existsSync } from "node:fs"
import type { HypervisorProbe } from "../hypervisor.js"

/** Where Linux puts the KVM node. */
const KVM_PATH = "/dev/kvm"
/** Even a processor that is itself emulated runs tens of millions; an interpreter runs one or two. */
const HARDWARE_AT_LEAST = 10_000_000
/** KVM's modules that execute guests; the one that is loaded says what kind of KVM this is. */
const MODULES = ["kvm_intel", "kvm_amd", "kvm_pvm"]

/** What is known of this host's KVM. */
export interface KvmProbe extends HypervisorProbe {
  /** The node can be used, although perhaps not with a stock kernel. */
  readonly present: boolean
}

/**
 * Finds out by running guest code whether a stock kernel can boot here.
 *
 * @example
 * ```ts
 * import { probeKvm } from "@ts-vmm/runtime"
 *
 * const { usable, reason } = await probeKvm()
 * ```
 */
export async function probeKvm(): Promise<KvmProbe> {
  // Nothing of KVM's API is loaded where there is no KVM: a start on another hypervisor would pay for it.
  if (!existsSync(KVM_PATH)) return absent(`KVM is not available: there is no ${KVM_PATH}`)
  try {
    const { guestInstructionsPerSecond } = await import("./guest-speed.js")
    return judge(guestInstructionsPerSecond(HARDWARE_AT_LEAST))
  } catch (error) {
    return absent((error as Error).message)
  }
}

function absent(reason: string): KvmProbe {
  return { present: false, usable: false, reason }
}

function judge(speed: number): KvmProbe {
  const millions = Math.max(1, Math.round(speed / 1e6))
  const kind = MODULES.find(name => existsSync(`/sys/module/${name}`)) ?? "an unknown module"
  if (speed >= HARDWARE_AT_LEAST)
    return { present: true, usable: true, reason: `guest code runs on the processor (${kind})` }
  return {
    present: true,
    usable: false,
    reason: `KVM is present but interprets guest code at about ${millions} million instructions per second, ${kind}: a stock kernel cannot boot`,
  }
}
