import type { VcpuFd } from "@ts-vmm/kvm-ioctls"

/** Register offsets. @see Intel SDM vol. 3, "Local APIC Register Address Map" */
const APIC_LVT_LINT0 = 0x350
const APIC_LVT_LINT1 = 0x360
/** Delivery mode field, bits 10:8. @see Intel SDM vol. 3, "Local Vector Table" */
const DELIVERY_MODE_MASK = 0x700
const DELIVERY_MODE_NMI = 0x400
const DELIVERY_MODE_EXTINT = 0x700
const LVT_MASKED = 1 << 16

/**
 * Sets a vCPU's local interrupt pins the way a PC's firmware does ("virtual wire"): the PIC's line on LINT0,
 * NMI on LINT1. Without a PIC nothing drives LINT0, so it stays masked.
 *
 * @param hasPic - whether the machine has a PIC, that is a full in-kernel interrupt controller
 * @throws KvmError `ioctl`
 * @see Intel MultiProcessor Specification 1.4, section 3.6.2.2, "Virtual Wire Mode"
 */
export function setUpLapic(vcpu: Pick<VcpuFd, "getLapic" | "setLapic">, hasPic: boolean): void {
  const lapic = vcpu.getLapic()
  const registers = new DataView(lapic.regs.buffer, lapic.regs.byteOffset, lapic.regs.byteLength)
  const lint0 = registers.getUint32(APIC_LVT_LINT0, true) & ~DELIVERY_MODE_MASK
  const lint1 = registers.getUint32(APIC_LVT_LINT1, true) & ~DELIVERY_MODE_MASK
  registers.setUint32(
    APIC_LVT_LINT0,
    hasPic ? (lint0 & ~LVT_MASKED) | DELIVERY_MODE_EXTINT : LVT_MASKED,
    true,
  )
  registers.setUint32(APIC_LVT_LINT1, (lint1 & ~LVT_MASKED) | DELIVERY_MODE_NMI, true)
  vcpu.setLapic(lapic)
}
