const PERMISSION =
  "the node needs read and write permission: add yourself to its group (usually kvm) and log in again"
const ABSENT =
  "KVM is not available: is virtualization enabled in the firmware, and kvm_intel or kvm_amd loaded?"
const BUSY = "the processor's virtualization is in use by another hypervisor, or switched off by the firmware"
const UNKNOWN = "the request is unknown to this kernel"

/** By ioctl and errno; `*` stands for every ioctl without an entry of its own. */
const HINTS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  open: { EACCES: PERMISSION, EPERM: PERMISSION, ENOENT: ABSENT, ENODEV: ABSENT, ENXIO: ABSENT },
  KVM_CREATE_VM: {
    EBUSY: BUSY,
    EINVAL: "this kind of virtual machine is not supported here",
    ENODEV: BUSY,
  },
  KVM_CREATE_VCPU: {
    EEXIST: "the VM has a vCPU with this id",
    EINVAL:
      "the id is not below the limit (getMaxVcpuId), or the VM has as many vCPUs as it may (getMaxVcpus)",
    EBUSY: BUSY,
  },
  KVM_CREATE_IRQCHIP: {
    EEXIST: "the VM has an interrupt controller",
    EINVAL: "the interrupt controller has to be created before the first vCPU",
  },
  KVM_CREATE_PIT2: {
    EEXIST: "the VM has a timer",
    ENOENT: "the timer needs createIrqChip before it",
    ENXIO: "the timer needs createIrqChip before it",
  },
  KVM_SET_USER_MEMORY_REGION: {
    EEXIST: "the range overlaps another slot",
    EINVAL:
      "addresses and size must be multiples of the page size, the slot in range, and a slot's size never changes",
  },
  KVM_SET_USER_MEMORY_REGION2: {
    EEXIST: "the range overlaps another slot",
    EINVAL:
      "addresses and size must be multiples of the page size, the slot in range, and a slot's size never changes",
  },
  KVM_SET_TSS_ADDR: { EINVAL: "the three pages must lie below 4 GiB" },
  KVM_SET_IDENTITY_MAP_ADDR: { EINVAL: "set it before the first vCPU is created" },
  KVM_IOEVENTFD: {
    EEXIST: "another eventfd is registered for this address, size and value",
    ENOENT: "no such eventfd is registered",
    ENOSPC: "the bus has no room for one more device",
  },
  KVM_IRQFD: {
    EBUSY: "this eventfd is already an irqfd of the VM",
    EINVAL: "an irqfd needs an interrupt controller in the kernel, and resampling a level-triggered line",
  },
  KVM_SET_GSI_ROUTING: { EINVAL: "a route has an unknown type, chip or pin, or there are too many" },
  KVM_ENABLE_CAP: {
    EINVAL: "the capability is unknown, or can no longer be enabled in this state of the VM",
  },
  KVM_CREATE_DEVICE: {
    EEXIST: "the VM has such a device",
    ENODEV: "this kind of device is not supported here",
  },
  KVM_GET_DIRTY_LOG: {
    ENOENT: "the slot does not exist, or is not logged: set flags to KVM_MEM_LOG_DIRTY_PAGES",
    ENXIO: "the VM reports dirty pages by ring, not by log",
  },
  KVM_SET_CPUID2: { E2BIG: "too many entries", EINVAL: "the vCPU has already run with other entries" },
  KVM_RUN: {
    EPERM: "a feature of the vCPU (SVE) is switched on but not finalized (vcpuFinalize)",
    ENOEXEC: "the vCPU has not been initialized (vcpuInit)",
  },
  "*": {
    EBADF: "the fd was closed",
    EIO: "a VM belongs to the process that made it, and cannot be used after fork or once it is dead",
    EMFILE: "the process has too many files open: raise its limit (ulimit -n)",
    ENFILE: "the machine has too many files open",
    ENOMEM: "the kernel has no memory for it: also see the memory limit of the cgroup and RLIMIT_MEMLOCK",
    ENOTTY: UNKNOWN,
  },
}

/** What a person can do about a request that failed with an errno of this name. @internal */
export function hintFor(syscall: string, errno: string): string | undefined {
  return HINTS[syscall]?.[errno] ?? HINTS["*"]?.[errno]
}
