import { constants } from "node:os"
import { expect, test } from "vitest"
import { countFds } from "../../../native/test/support/process.js"
import { FakeKernel } from "./fake-kernel.js"
import { VhostFd } from "./index.js"

const { EBUSY, ENOTTY, EADDRINUSE } = constants.errno

test("a node that is not there is told with what to do about it", () => {
  const open = () => VhostFd.open("/dev/vhost-nobody")
  expect(open).toThrow(expect.objectContaining({ code: "unavailable", syscall: "open", errnoName: "ENOENT" }))
  expect(open).toThrow("cannot open /dev/vhost-nobody: ENOENT; load the kernel's module")
})

test.each([
  ["VHOST_SET_OWNER", EBUSY, "the fd has an owner already", (vhost: VhostFd) => vhost.setOwner()],
  [
    "VHOST_VSOCK_SET_GUEST_CID",
    EADDRINUSE,
    "another guest has this CID",
    (vhost: VhostFd) => vhost.vsockSetGuestCid(3),
  ],
  [
    "VHOST_GET_VRING_BASE",
    ENOTTY,
    "the request is unknown to this kernel",
    (vhost: VhostFd) => vhost.getVringBase(0),
  ],
] as const)("a refusal of %s has its name, its number and a hint", (name, errno, hint, request) => {
  const kernel = new FakeKernel()
  using vhost = kernel.open()
  kernel.refused.set(name, errno)
  expect(() => request(vhost)).toThrow(
    expect.objectContaining({ name: "VhostError", code: "ioctl", syscall: name, errno, hint }),
  )
})

test("the memory table has every region, and nothing else", () => {
  const kernel = new FakeKernel()
  using vhost = kernel.open()
  vhost.setMemTable([
    { guestAddress: 0, size: 0x1000, userAddress: 0x7f00_0000_0000n, fd: -1 },
    { guestAddress: 2 ** 32, size: 0x2000, userAddress: 0x7f00_1000_0000n, fd: -1 },
  ])
  const flags_padding = 0n
  expect(kernel.arguments("VHOST_SET_MEM_TABLE")).toEqual([
    [
      { guest_phys_addr: 0n, memory_size: 0x1000n, userspace_addr: 0x7f00_0000_0000n, flags_padding },
      { guest_phys_addr: 2n ** 32n, memory_size: 0x2000n, userspace_addr: 0x7f00_1000_0000n, flags_padding },
    ],
  ])
})

test("a closed one asks the kernel nothing, and its fd is gone", () => {
  const before = countFds()
  const kernel = new FakeKernel()
  const vhost = kernel.open()
  vhost.close()
  vhost.close()
  expect(countFds()).toBe(before)
  expect(() => vhost.setOwner()).toThrow(expect.objectContaining({ code: "closed" }))
  expect(kernel.seen).toEqual([])
})
