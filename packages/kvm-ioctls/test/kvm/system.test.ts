import { closeFd, duplicateFd } from "@ts-vmm/native"
import { describe, expect, test } from "vitest"
import {
  Cap,
  KVM_CREATE_DEVICE_TEST,
  KVM_DEV_TYPE_ARM_VGIC_V3,
  KVM_DEV_TYPE_VFIO,
  Kvm,
  KvmError,
} from "../../src/index.js"

function errorOf(action: () => unknown): KvmError {
  try {
    action()
  } catch (error) {
    if (error instanceof KvmError) return error
    throw error
  }
  throw new Error("nothing was thrown")
}

describe("the node", () => {
  test("speaks API 12 and has the capabilities that a VMM needs", () => {
    using kvm = new Kvm()
    expect(kvm.getApiVersion()).toBe(12)
    const needed = [
      "Irqchip",
      "Hlt",
      "UserMemory",
      "SetTssAddr",
      "ExtCpuid",
      "Irqfd",
      "Ioeventfd",
      "ImmediateExit",
    ] as const
    expect(needed.filter(name => !kvm.checkExtension(Cap[name]))).toEqual([])
    expect(kvm.checkExtension(60_000)).toBe(false)
  })

  test("has limits", () => {
    using kvm = new Kvm()
    expect(kvm.getVcpuMmapSize()).toBeGreaterThanOrEqual(4096)
    expect(kvm.getVcpuMmapSize() % 4096).toBe(0)
    expect(kvm.getNrVcpus()).toBeGreaterThan(0)
    expect(kvm.getMaxVcpus()).toBeGreaterThanOrEqual(kvm.getNrVcpus())
    expect(kvm.getMaxVcpuId()).toBeGreaterThanOrEqual(kvm.getMaxVcpus())
    expect(kvm.getNrMemslots()).toBeGreaterThanOrEqual(32)
  })

  test("lists CPUID, with a vendor in leaf 0", () => {
    using kvm = new Kvm()
    const leaf0 = kvm.getSupportedCpuid().find(entry => entry.function === 0)
    const vendor = Buffer.from(Uint32Array.of(leaf0?.ebx ?? 0, leaf0?.edx ?? 0, leaf0?.ecx ?? 0).buffer)
    expect(vendor.toString("latin1")).toMatch(/AuthenticAMD|GenuineIntel|HygonGenuine/)
    if (kvm.checkExtension(Cap.ExtEmulCpuid)) expect(Array.isArray(kvm.getEmulatedCpuid())).toBe(true)
    if (kvm.checkExtension(Cap.HypervCpuid) && kvm.checkExtension(Cap.SysHypervCpuid))
      expect(kvm.getSupportedHvCpuid()).toContainEqual(expect.objectContaining({ function: 0x4000_0000 }))
  })

  test("lists MSRs, and reads those that say what the host can do", () => {
    using kvm = new Kvm()
    expect(kvm.getMsrIndexList().length).toBeGreaterThan(10)
    const features = kvm.getMsrFeatureIndexList()
    const values = kvm.getMsrs(features)
    expect(values.map(({ index }) => index)).toEqual(features.slice(0, values.length))
  })

  test("can be an fd that somebody else opened, which is ours from then on", () => {
    using kvm = new Kvm()
    const fd = duplicateFd(kvm.fd)
    const other = new Kvm({ fd })
    expect(other.getApiVersion()).toBe(12)
    other.close()
    expect(() => closeFd(fd)).toThrow(/EBADF/)
  })

  test("without permission says what to do", ({ skip }) => {
    if (process.getuid?.() !== 0) skip("only root can become somebody without permission")
    process.seteuid?.(65_534)
    try {
      const error = errorOf(() => new Kvm())
      expect(error).toMatchObject({ code: "unavailable", errnoName: "EACCES", syscall: "open" })
      expect(error.message).toContain("add yourself to its group (usually kvm)")
    } finally {
      process.seteuid?.(0)
    }
  })
})

describe("virtual machines", () => {
  test("know the capabilities that are theirs, and the size of their vCPUs' mapping", () => {
    using kvm = new Kvm()
    using vm = kvm.createVm()
    expect(vm.runSize).toBe(kvm.getVcpuMmapSize())
    expect(vm.checkExtension(Cap.UserMemory)).toBe(true)
    expect(vm.checkExtensionInt(60_000)).toBe(0)
  })

  test("of a kind that there is not are refused with a hint", () => {
    using kvm = new Kvm()
    const error = errorOf(() => kvm.createVm(0x1234_5678))
    expect(error).toMatchObject({ code: "ioctl", errnoName: "EINVAL", syscall: "KVM_CREATE_VM" })
    expect(error.hint).toContain("not supported here")
  })

  test("have each vCPU once, and none beyond the limit", () => {
    using kvm = new Kvm()
    using vm = kvm.createVm()
    using vcpu = vm.createVcpu(0)
    expect(vcpu.runMapping.size).toBe(vm.runSize)
    const twice = errorOf(() => vm.createVcpu(0))
    expect(twice).toMatchObject({ errnoName: "EEXIST", syscall: "KVM_CREATE_VCPU" })
    expect(twice.message).toContain("a vCPU with this id")
    expect(errorOf(() => vm.createVcpu(kvm.getMaxVcpuId() + 1))).toMatchObject({ errnoName: "EINVAL" })
    expect(errorOf(() => vm.createVcpu(-1))).toMatchObject({ code: "invalid-argument" })
  })

  test("set the identity map before the first vCPU, or never", () => {
    using kvm = new Kvm()
    using vm = kvm.createVm()
    vm.setTssAddress(0xfffb_d000)
    vm.setIdentityMapAddress(0xfffb_c000)
    using _vcpu = vm.createVcpu(0)
    const late = errorOf(() => vm.setIdentityMapAddress(0xfffb_c000))
    expect(late.message).toBe(
      "KVM_SET_IDENTITY_MAP_ADDR failed with EINVAL; set it before the first vCPU is created",
    )
  })

  test("have no device of another architecture, and do not take a test for a device", () => {
    using kvm = new Kvm()
    using vm = kvm.createVm()
    expect(vm.testDevice(KVM_DEV_TYPE_ARM_VGIC_V3)).toBe(false)
    const error = errorOf(() => vm.createDevice(KVM_DEV_TYPE_ARM_VGIC_V3))
    expect(error).toMatchObject({ errnoName: "ENODEV", syscall: "KVM_CREATE_DEVICE" })
    expect(errorOf(() => vm.createDevice(KVM_DEV_TYPE_VFIO, KVM_CREATE_DEVICE_TEST))).toMatchObject({
      code: "invalid-argument",
    })
  })

  test("have no attribute that nobody knows", () => {
    using kvm = new Kvm()
    using vm = kvm.createVm()
    expect(vm.hasDeviceAttr({ group: 99, attr: 1 })).toBe(false)
    using vcpu = vm.createVcpu(0)
    expect(vcpu.hasDeviceAttr({ group: 99, attr: 1 })).toBe(false)
  })

  test("a vCPU's attribute is read and written: the offset of its TSC", ({ skip }) => {
    using kvm = new Kvm()
    using vm = kvm.createVm()
    using vcpu = vm.createVcpu(0)
    const offset = { group: 0, attr: 0 }
    if (!vcpu.hasDeviceAttr(offset)) skip("this kernel has no KVM_VCPU_TSC_OFFSET")
    const value = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 0)
    vcpu.setDeviceAttr(offset, value)
    expect(vcpu.getDeviceAttr(offset, 8)).toEqual(value)
  })

  test("of which many are made and closed leave no fd behind", () => {
    using kvm = new Kvm()
    const probe = () => {
      const fd = duplicateFd(kvm.fd)
      closeFd(fd)
      return fd
    }
    const before = probe()
    for (let i = 0; i < 5; i += 1) {
      using vm = kvm.createVm()
      using vcpu = vm.createVcpu(0)
      vcpu.hasDeviceAttr({ group: 0, attr: 0 })
    }
    expect(probe()).toBe(before)
  })

  test("that are closed refuse every use", () => {
    using kvm = new Kvm()
    const vm = kvm.createVm()
    vm.close()
    expect(errorOf(() => vm.createVcpu(0))).toMatchObject({ code: "closed" })
    expect(errorOf(() => vm.setDeviceAttr({ group: 0, attr: 0 }, new Uint8Array(1)))).toMatchObject({
      code: "closed",
    })
  })

  test("a filter of performance events is bounded before the kernel sees it", () => {
    using kvm = new Kvm()
    using vm = kvm.createVm()
    const events = Array.from({ length: 301 }, (_, index) => BigInt(index))
    expect(errorOf(() => vm.setPmuEventFilter({ action: 0, events }))).toMatchObject({
      code: "invalid-argument",
    })
    if (vm.checkExtension(Cap.PmuEventFilter)) vm.setPmuEventFilter({ action: 0, events: events.slice(0, 3) })
  })
})
