import { existsSync } from "node:fs"
import type { HypervisorProbe } from "../hypervisor.js"
import { guestInstructionsPerSecond } from "./guest-speed.js"

/** Emulated processors of the slowest kind still run tens of millions; an interpreter runs one or two. */
const HARDWARE_AT_LEAST = 20_000_000
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
 * const { usable, reason } = probeKvm()
 * ```
 */
export function probeKvm(): KvmProbe {
  try {
    return judge(guestInstructionsPerSecond())
  } catch (error) {
    return { present: false, usable: false, reason: (error as Error).message }
  }
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
