import {
  KVM_IRQ_ROUTING_HV_SINT,
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KVM_IRQ_ROUTING_XEN_EVTCHN,
  KVM_MSI_VALID_DEVID,
} from "../bindings/common.js"
import {
  type kvmIrqRoutingEntry,
  kvmIrqRoutingHvSint,
  kvmIrqRoutingIrqchip,
  kvmIrqRoutingMsi,
  kvmIrqRoutingXenEvtchn,
} from "../structs/any-arch.js"
import type { KvmStruct, Value } from "../structs/struct.js"

/** A message-signalled interrupt as a route's target. */
export interface MsiTarget {
  readonly address_lo: number
  readonly address_hi: number
  readonly data: number
  /** The device it comes from, where the interrupt controller wants to know (arm64 ITS). */
  readonly devid?: number
}

/**
 * Where one interrupt goes: a pin of a controller, a message, a Hyper-V or a Xen interrupt.
 *
 * @see struct kvm_irq_routing_entry
 */
export type IrqRoute = { readonly gsi: number } & (
  | { readonly irqchip: Value<typeof kvmIrqRoutingIrqchip> }
  | { readonly msi: MsiTarget }
  | { readonly hv_sint: Value<typeof kvmIrqRoutingHvSint> }
  | { readonly xen_evtchn: Value<typeof kvmIrqRoutingXenEvtchn> }
)

/** A route as the kernel has it. @internal */
export function routingEntry(route: IrqRoute): Value<typeof kvmIrqRoutingEntry> {
  const { gsi } = route
  if ("irqchip" in route) return entry(gsi, KVM_IRQ_ROUTING_IRQCHIP, kvmIrqRoutingIrqchip, route.irqchip)
  if ("hv_sint" in route) return entry(gsi, KVM_IRQ_ROUTING_HV_SINT, kvmIrqRoutingHvSint, route.hv_sint)
  if ("xen_evtchn" in route)
    return entry(gsi, KVM_IRQ_ROUTING_XEN_EVTCHN, kvmIrqRoutingXenEvtchn, route.xen_evtchn)
  const { devid = 0, ...message } = route.msi
  const flags = route.msi.devid === undefined ? 0 : KVM_MSI_VALID_DEVID
  return { ...entry(gsi, KVM_IRQ_ROUTING_MSI, kvmIrqRoutingMsi, { ...message, devid }), flags }
}

function entry<T>(
  gsi: number,
  type: number,
  struct: KvmStruct<T>,
  target: T,
): Value<typeof kvmIrqRoutingEntry> {
  return { gsi, type, flags: 0, u: struct.toBytes(target, UNION_SIZE) }
}

/** Of the union in struct kvm_irq_routing_entry. */
const UNION_SIZE = 32
