// Requests that every architecture has. @see linux/kvm.h
import {
  kvmClearDirtyLog,
  kvmClockData,
  kvmCoalescedMmioZone,
  kvmCreateDevice,
  kvmCreateGuestMemfd,
  kvmDeviceAttr,
  kvmDirtyLog,
  kvmEnableCap,
  kvmEncRegion,
  kvmInterrupt,
  kvmIoeventfd,
  kvmIrqchip,
  kvmIrqfd,
  kvmIrqLevel,
  kvmIrqRouting,
  kvmMemoryAttributes,
  kvmMpState,
  kvmMsi,
  kvmOneReg,
  kvmPreFaultMemory,
  kvmRegList,
  kvmSignalMask,
  kvmTranslation,
  kvmU64,
  kvmUserspaceMemoryRegion,
  kvmUserspaceMemoryRegion2,
} from "../structs/any-arch.js"
import { io, ior, iow, iowArray, iowr, iowrArray } from "./request.js"

// The system fd.
export const KVM_GET_API_VERSION = io("KVM_GET_API_VERSION", 0x00)
export const KVM_CREATE_VM = io("KVM_CREATE_VM", 0x01)
export const KVM_CHECK_EXTENSION = io("KVM_CHECK_EXTENSION", 0x03)
export const KVM_GET_VCPU_MMAP_SIZE = io("KVM_GET_VCPU_MMAP_SIZE", 0x04)

// A VM's fd: memory.
export const KVM_SET_USER_MEMORY_REGION = iow("KVM_SET_USER_MEMORY_REGION", 0x46, kvmUserspaceMemoryRegion)
/** With KVM_CAP_USER_MEMORY2. */
export const KVM_SET_USER_MEMORY_REGION2 = iow("KVM_SET_USER_MEMORY_REGION2", 0x49, kvmUserspaceMemoryRegion2)
/** With KVM_CAP_MEMORY_ATTRIBUTES. */
export const KVM_SET_MEMORY_ATTRIBUTES = iow("KVM_SET_MEMORY_ATTRIBUTES", 0xd2, kvmMemoryAttributes)
/** With KVM_CAP_GUEST_MEMFD. */
export const KVM_CREATE_GUEST_MEMFD = iowr("KVM_CREATE_GUEST_MEMFD", 0xd4, kvmCreateGuestMemfd)
export const KVM_GET_DIRTY_LOG = iow("KVM_GET_DIRTY_LOG", 0x42, kvmDirtyLog)
/** With KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. */
export const KVM_CLEAR_DIRTY_LOG = iowr("KVM_CLEAR_DIRTY_LOG", 0xc0, kvmClearDirtyLog)
/** With KVM_CAP_DIRTY_LOG_RING. */
export const KVM_RESET_DIRTY_RINGS = io("KVM_RESET_DIRTY_RINGS", 0xc7)
/** With KVM_CAP_COALESCED_MMIO, and KVM_CAP_COALESCED_PIO for ports. */
export const KVM_REGISTER_COALESCED_MMIO = iow("KVM_REGISTER_COALESCED_MMIO", 0x67, kvmCoalescedMmioZone)
export const KVM_UNREGISTER_COALESCED_MMIO = iow("KVM_UNREGISTER_COALESCED_MMIO", 0x68, kvmCoalescedMmioZone)
export const KVM_MEMORY_ENCRYPT_REG_REGION = ior("KVM_MEMORY_ENCRYPT_REG_REGION", 0xbb, kvmEncRegion)
export const KVM_MEMORY_ENCRYPT_UNREG_REGION = ior("KVM_MEMORY_ENCRYPT_UNREG_REGION", 0xbc, kvmEncRegion)
/** Takes one of the commands of kvm_sev_cmd; the size in the number is that of a long. */
export const KVM_MEMORY_ENCRYPT_OP = iowr("KVM_MEMORY_ENCRYPT_OP", 0xba, kvmU64)

// A VM's fd: interrupts.
/** With KVM_CAP_IRQCHIP. */
export const KVM_CREATE_IRQCHIP = io("KVM_CREATE_IRQCHIP", 0x60)
export const KVM_IRQ_LINE = iow("KVM_IRQ_LINE", 0x61, kvmIrqLevel)
export const KVM_GET_IRQCHIP = iowr("KVM_GET_IRQCHIP", 0x62, kvmIrqchip)
/** The header has the direction wrong, for ever. */
export const KVM_SET_IRQCHIP = ior("KVM_SET_IRQCHIP", 0x63, kvmIrqchip)
/** With KVM_CAP_IRQ_ROUTING. */
export const KVM_SET_GSI_ROUTING = iowArray("KVM_SET_GSI_ROUTING", 0x6a, kvmIrqRouting)
/** With KVM_CAP_IRQFD, and KVM_CAP_IRQFD_RESAMPLE. */
export const KVM_IRQFD = iow("KVM_IRQFD", 0x76, kvmIrqfd)
/** With KVM_CAP_IOEVENTFD. */
export const KVM_IOEVENTFD = iow("KVM_IOEVENTFD", 0x79, kvmIoeventfd)
/** With KVM_CAP_SIGNAL_MSI. */
export const KVM_SIGNAL_MSI = iow("KVM_SIGNAL_MSI", 0xa5, kvmMsi)

// A VM's fd: the rest.
export const KVM_CREATE_VCPU = io("KVM_CREATE_VCPU", 0x41)
/** With KVM_CAP_SET_BOOT_CPU_ID. */
export const KVM_SET_BOOT_CPU_ID = io("KVM_SET_BOOT_CPU_ID", 0x78)
/** With KVM_CAP_ADJUST_CLOCK. */
export const KVM_SET_CLOCK = iow("KVM_SET_CLOCK", 0x7b, kvmClockData)
export const KVM_GET_CLOCK = ior("KVM_GET_CLOCK", 0x7c, kvmClockData)
/** With KVM_CAP_DEVICE_CTRL. */
export const KVM_CREATE_DEVICE = iowr("KVM_CREATE_DEVICE", 0xe0, kvmCreateDevice)
/** With KVM_CAP_ENABLE_CAP or KVM_CAP_ENABLE_CAP_VM. */
export const KVM_ENABLE_CAP = iow("KVM_ENABLE_CAP", 0xa3, kvmEnableCap)
/** With KVM_CAP_BINARY_STATS_FD; on a vCPU's fd too. */
export const KVM_GET_STATS_FD = io("KVM_GET_STATS_FD", 0xce)

// Attributes of devices, and of VMs and vCPUs.
export const KVM_SET_DEVICE_ATTR = iow("KVM_SET_DEVICE_ATTR", 0xe1, kvmDeviceAttr)
export const KVM_GET_DEVICE_ATTR = iow("KVM_GET_DEVICE_ATTR", 0xe2, kvmDeviceAttr)
export const KVM_HAS_DEVICE_ATTR = iow("KVM_HAS_DEVICE_ATTR", 0xe3, kvmDeviceAttr)

// A vCPU's fd.
export const KVM_RUN = io("KVM_RUN", 0x80)
export const KVM_TRANSLATE = iowr("KVM_TRANSLATE", 0x85, kvmTranslation)
export const KVM_INTERRUPT = iow("KVM_INTERRUPT", 0x86, kvmInterrupt)
export const KVM_SET_SIGNAL_MASK = iowArray("KVM_SET_SIGNAL_MASK", 0x8b, kvmSignalMask)
/** With KVM_CAP_MP_STATE. */
export const KVM_GET_MP_STATE = ior("KVM_GET_MP_STATE", 0x98, kvmMpState)
export const KVM_SET_MP_STATE = iow("KVM_SET_MP_STATE", 0x99, kvmMpState)
/** With KVM_CAP_ONE_REG. */
export const KVM_GET_ONE_REG = iow("KVM_GET_ONE_REG", 0xab, kvmOneReg)
export const KVM_SET_ONE_REG = iow("KVM_SET_ONE_REG", 0xac, kvmOneReg)
export const KVM_GET_REG_LIST = iowrArray("KVM_GET_REG_LIST", 0xb0, kvmRegList)
/** With KVM_CAP_PRE_FAULT_MEMORY. */
export const KVM_PRE_FAULT_MEMORY = iowr("KVM_PRE_FAULT_MEMORY", 0xd5, kvmPreFaultMemory)
