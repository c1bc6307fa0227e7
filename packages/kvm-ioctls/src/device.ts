import { toU32 } from "./arguments.js"
import { isErrno, KvmFd } from "./fd.js"
import { KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR, KVM_SET_DEVICE_ATTR } from "./ioctls/any-arch.js"

/** One attribute of a device, a VM or a vCPU: what `group` and `attr` mean is the owner's. */
export interface DeviceAttr {
  readonly group: number
  readonly attr: bigint | number
  /** The kernel has no flags so far. Default 0. */
  readonly flags?: number
}

/** An fd with attributes. @see Documentation/virt/kvm/api.rst, 4.80 */
export abstract class AttributeFd extends KvmFd {
  /**
   * Sets an attribute to the bytes of `data` (none for one that is only an action).
   * @throws {@link KvmError} `ioctl` with `ENXIO` (no such attribute), `EPERM`, `EBUSY`
   * @see KVM_SET_DEVICE_ATTR
   */
  setDeviceAttr(attribute: DeviceAttr, data: Uint8Array = new Uint8Array(0)): void {
    const { bytes, address } = this.pointee(data.length)
    bytes.set(data)
    this.writeStruct(KVM_SET_DEVICE_ATTR, attrStruct(attribute, data.length === 0 ? 0n : address))
  }

  /**
   * The bytes of an attribute.
   * @param size - how many it has; the kernel does not say
   * @see KVM_GET_DEVICE_ATTR
   */
  getDeviceAttr(attribute: DeviceAttr, size: number): Uint8Array {
    const { bytes, address } = this.pointee(toU32("size", size))
    this.writeStruct(KVM_GET_DEVICE_ATTR, attrStruct(attribute, address))
    return bytes.slice()
  }

  /** Whether there is such an attribute. @see KVM_HAS_DEVICE_ATTR */
  hasDeviceAttr(attribute: DeviceAttr): boolean {
    try {
      this.writeStruct(KVM_HAS_DEVICE_ATTR, attrStruct(attribute, 0n))
      return true
    } catch (error) {
      if (isErrno(error, "ENXIO", "ENOTTY", "EINVAL", "EPERM", "ENODEV")) return false
      throw error
    }
  }
}

/**
 * A device inside the kernel, such as an arm64 interrupt controller or the VFIO device.
 *
 * @example
 * ```ts
 * import { Kvm, KVM_DEV_TYPE_VFIO } from "@ts-vmm/kvm-ioctls"
 *
 * using kvm = new Kvm()
 * using vm = kvm.createVm()
 * using device = vm.createDevice(KVM_DEV_TYPE_VFIO)
 * ```
 *
 * @see Documentation/virt/kvm/devices
 */
export class DeviceFd extends AttributeFd {}

function attrStruct({ group, attr, flags = 0 }: DeviceAttr, addr: bigint) {
  return { flags, group, attr: BigInt(attr), addr }
}
