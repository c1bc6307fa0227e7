import type { VcpuFd } from "@ts-vmm/kvm-ioctls"

/** All exceptions masked, double extended precision: what FNINIT sets. @see Intel SDM vol. 1, "x87 FPU Control Word" */
const FCW_INIT = 0x37f
/** All exceptions masked, rounding to nearest. @see Intel SDM vol. 1, "MXCSR Control and Status Register" */
const MXCSR_INIT = 0x1f80

/**
 * Sets a vCPU's FPU as after FNINIT: a kernel that uses SSE before it initialises the FPU must not trap.
 * @throws KvmError `ioctl`
 */
export function setUpFpu(vcpu: Pick<VcpuFd, "getFpu" | "setFpu">): void {
  vcpu.setFpu({ ...vcpu.getFpu(), fcw: FCW_INIT, mxcsr: MXCSR_INIT })
}
