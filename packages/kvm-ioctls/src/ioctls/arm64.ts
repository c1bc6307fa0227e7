// Requests of arm64 only, or with a structure of another size elsewhere. @see linux/kvm.h

import { kvmInt } from "../structs/any-arch.js"
import {
  kvmArmCopyMteTags,
  kvmArmCounterOffset,
  kvmArmDeviceAddr,
  kvmGuestDebugArm64,
  kvmVcpuEventsArm64,
  kvmVcpuInit,
} from "../structs/arm64.js"
import { ior, iow } from "./request.js"

// A VM's fd.
export const KVM_ARM_PREFERRED_TARGET = ior("KVM_ARM_PREFERRED_TARGET", 0xaf, kvmVcpuInit)
/** With KVM_CAP_ARM_SET_DEVICE_ADDR. */
export const KVM_ARM_SET_DEVICE_ADDR = iow("KVM_ARM_SET_DEVICE_ADDR", 0xab, kvmArmDeviceAddr)
/** With KVM_CAP_ARM_MTE. */
export const KVM_ARM_MTE_COPY_TAGS = ior("KVM_ARM_MTE_COPY_TAGS", 0xb4, kvmArmCopyMteTags)
/** With KVM_CAP_COUNTER_OFFSET. */
export const KVM_ARM_SET_COUNTER_OFFSET = iow("KVM_ARM_SET_COUNTER_OFFSET", 0xb5, kvmArmCounterOffset)

// A vCPU's fd.
export const KVM_ARM_VCPU_INIT = iow("KVM_ARM_VCPU_INIT", 0xae, kvmVcpuInit)
/** With KVM_CAP_ARM_SVE. */
export const KVM_ARM_VCPU_FINALIZE = iow("KVM_ARM_VCPU_FINALIZE", 0xc2, kvmInt)
/** With KVM_CAP_VCPU_EVENTS. */
export const KVM_GET_VCPU_EVENTS = ior("KVM_GET_VCPU_EVENTS", 0x9f, kvmVcpuEventsArm64)
export const KVM_SET_VCPU_EVENTS = iow("KVM_SET_VCPU_EVENTS", 0xa0, kvmVcpuEventsArm64)
/** With KVM_CAP_SET_GUEST_DEBUG. */
export const KVM_SET_GUEST_DEBUG = iow("KVM_SET_GUEST_DEBUG", 0x9b, kvmGuestDebugArm64)
