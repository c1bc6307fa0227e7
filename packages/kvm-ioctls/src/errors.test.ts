import { SysError } from "@ts-vmm/native"
import { describe, expect, test } from "vitest"
import { ioctlError, KvmError, openError } from "./errors.js"
import { Kvm } from "./kvm.js"

function errorOf(action: () => unknown): KvmError {
  try {
    action()
  } catch (error) {
    if (error instanceof KvmError) return error
    throw error
  }
  throw new Error("nothing was thrown")
}

describe("a node that cannot be used is unavailable", () => {
  test("because it does not exist", () => {
    const error = errorOf(() => new Kvm("/nonexistent/kvm"))
    expect(error).toMatchObject({ code: "unavailable", errno: 2, errnoName: "ENOENT", syscall: "open" })
    expect(error.message).toMatch(
      /^cannot open \/nonexistent\/kvm: ENOENT; KVM is not available: .*kvm_intel or kvm_amd/,
    )
  })

  test("because it is another device", () => {
    const error = errorOf(() => new Kvm("/dev/null"))
    expect(error).toMatchObject({ code: "unavailable", message: "/dev/null is not the KVM node" })
    expect(error.cause).toMatchObject({
      code: "unsupported",
      syscall: "KVM_GET_API_VERSION",
      errnoName: "ENOTTY",
    })
  })

  test("because it is a folder", () => {
    expect(errorOf(() => new Kvm("/"))).toMatchObject({ code: "unavailable", errnoName: "EISDIR" })
  })

  test.each(["EACCES", "EPERM"])("because of missing permission (%s), with what to do", name => {
    const cause = Object.assign(new Error(name), { code: name, errno: name === "EACCES" ? -13 : -1 })
    expect(openError("/dev/kvm", cause).message).toContain("add yourself to its group (usually kvm)")
  })

  test("because the fd that was given is none", () => {
    expect(errorOf(() => new Kvm({ fd: 1_000_000 }))).toMatchObject({ code: "unavailable" })
  })
})

describe("a request that the kernel refuses", () => {
  test.each([
    ["KVM_CREATE_VM", 16, "ioctl", /another hypervisor/],
    ["KVM_CREATE_VCPU", 17, "ioctl", /a vCPU with this id/],
    ["KVM_CREATE_IRQCHIP", 17, "ioctl", /has an interrupt controller/],
    ["KVM_SET_USER_MEMORY_REGION", 17, "ioctl", /overlaps another slot/],
    ["KVM_SET_USER_MEMORY_REGION", 22, "ioctl", /page size/],
    ["KVM_IOEVENTFD", 17, "ioctl", /another eventfd/],
    ["KVM_IRQFD", 16, "ioctl", /already an irqfd/],
    ["KVM_CREATE_VCPU", 12, "ioctl", /no memory/],
    ["KVM_CREATE_VM", 24, "ioctl", /ulimit -n/],
    ["KVM_SET_USER_MEMORY_REGION2", 25, "unsupported", /unknown to this kernel/],
  ] as const)("%s with errno %i", (syscall, errno, code, hint) => {
    const error = ioctlError(syscall, new SysError(errno, "ioctl"))
    expect(error).toMatchObject({ name: "KvmError", code, errno, syscall })
    expect((error as KvmError).message).toMatch(new RegExp(`^${syscall} failed with E[A-Z]+; `))
    expect((error as KvmError).hint).toMatch(hint)
  })

  test("has no hint where none is known, and then none in its message", () => {
    const error = ioctlError("KVM_GET_REGS", new SysError(22, "ioctl")) as KvmError
    expect(error.hint).toBeUndefined()
    expect(error.message).toBe("KVM_GET_REGS failed with EINVAL")
  })

  test("keeps the system call's error as its cause", () => {
    const cause = new SysError(9, "ioctl")
    expect(ioctlError("KVM_RUN", cause)).toMatchObject({ errnoName: "EBADF", cause })
  })
})

test("a wrong argument that native code found is invalid-argument; other errors stay what they are", () => {
  expect(ioctlError("KVM_RUN", new RangeError("too small"))).toMatchObject({ code: "invalid-argument" })
  const other = new Error("other")
  expect(ioctlError("KVM_RUN", other)).toBe(other)
})
