import { constants } from "node:os"
import { eventFd, signal } from "@ts-vmm/native"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import type { DeviceContext } from "../device.js"
import { VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from "../features.js"
import * as net from "../net/defs.js"
import type { Tap } from "../net/tap/open-tap.js"
import { MockDriver } from "../testing/mock-driver.js"
import { overExternal } from "../vhost-user/external-port.js"
import { settledFds } from "../vhost-user/raw-peer.js"
import type { VHOST_VRING_FILE } from "./defs.js"
import { FakeKernel } from "./fake-kernel.js"
import { VhostNetDevice, VhostVsockDevice } from "./index.js"

const { EFAULT, EINVAL, EADDRINUSE } = constants.errno
const MAC = "02:00:00:00:00:42"
const SET_UP_RING = [
  "VHOST_SET_VRING_NUM",
  "VHOST_SET_VRING_BASE",
  "VHOST_SET_VRING_ADDR",
  "VHOST_SET_VRING_ERR",
  "VHOST_SET_VRING_CALL",
  "VHOST_SET_VRING_KICK",
]
const TAKE_BACK = [
  "VHOST_GET_VRING_BASE",
  "VHOST_SET_VRING_KICK",
  "VHOST_SET_VRING_CALL",
  "VHOST_SET_VRING_ERR",
]
const START = ["VHOST_SET_FEATURES", "VHOST_SET_MEM_TABLE", ...SET_UP_RING, ...SET_UP_RING]
const RUN_NET = ["TUNSETOFFLOAD", "VHOST_NET_SET_BACKEND", "VHOST_NET_SET_BACKEND"]
const HALT_NET = ["VHOST_NET_SET_BACKEND", "VHOST_NET_SET_BACKEND", "TUNSETOFFLOAD"]

let kernel: FakeKernel
let fdsBefore: number
const closers: (() => Promise<void> | void)[] = []

beforeEach(async () => {
  fdsBefore = await settledFds()
  kernel = new FakeKernel()
})
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
  expect(await settledFds()).toBe(fdsBefore)
})

const TAP: Tap = {
  name: "tap0",
  fds: [-1],
  mtu: 1400,
  offloads: net.VIRTIO_NET_F_CSUM | net.VIRTIO_NET_F_GUEST_CSUM | net.VIRTIO_NET_F_GUEST_TSO4,
}

function card(): VhostNetDevice {
  const tap = { ...TAP, fds: [eventFd()] }
  const device = new VhostNetDevice(kernel.open(), tap, { mac: MAC }, kernel.ioctl)
  closers.push(() => device.close())
  return device
}

function socket(): VhostVsockDevice {
  const device = new VhostVsockDevice(kernel.open(), { guestCid: 42 })
  closers.push(() => device.close())
  return device
}

async function attach(...[device, options]: [VhostNetDevice | VhostVsockDevice, object?]) {
  const driver = await MockDriver.attach(device, overExternal, options)
  closers.push(() => driver[Symbol.asyncDispose]())
  return driver
}

const needsReset = (driver: MockDriver) => driver.port.needsReset()

describe("a network card that the kernel serves", () => {
  test("offers what the kernel, the tap device and this package have together", () => {
    const device = card()
    expect(kernel.take()).toEqual(["VHOST_GET_FEATURES", "VHOST_SET_OWNER"])
    expect(device.features).toBe(
      net.VIRTIO_NET_F_MAC |
        net.VIRTIO_NET_F_MTU |
        net.VIRTIO_NET_F_MRG_RXBUF |
        net.VIRTIO_NET_F_CSUM |
        net.VIRTIO_NET_F_GUEST_CSUM |
        net.VIRTIO_NET_F_GUEST_TSO4,
    )
    expect(device.ringFeatures & VIRTIO_F_RING_PACKED).toBe(0n)
    const config = new Uint8Array(14).fill(0xff)
    device.readConfig(0, config)
    expect([...config]).toEqual([2, 0, 0, 0, 0, 0x42, 1, 0, 1, 0, 1400 & 0xff, 1400 >> 8, 0, 0])
  })

  test("is started ring by ring, the tap device last, and stopped the other way round", async () => {
    const driver = await attach(card())
    kernel.take()
    await driver.reset({ initialise: false })
    expect(kernel.take()).toEqual([...HALT_NET, ...TAKE_BACK, ...TAKE_BACK])
    await driver.initialise()
    expect(kernel.take()).toEqual([...START, ...RUN_NET])
  })

  test("tells the kernel only the features that it knows", async () => {
    await attach(card())
    const [features] = kernel.arguments("VHOST_SET_FEATURES") as [bigint]
    expect(features & ~kernel.features).toBe(0n)
    expect(features & (VIRTIO_F_VERSION_1 | net.VIRTIO_NET_F_MRG_RXBUF)).not.toBe(0n)
    // TUN_F_CSUM and TUN_F_TSO4.
    expect(kernel.arguments("TUNSETOFFLOAD")).toEqual([3])
  })

  test("gives ring addresses of this process, in the table that goes with them", async () => {
    await attach(card())
    const [table] = kernel.arguments("VHOST_SET_MEM_TABLE") as [
      { guest_phys_addr: bigint; memory_size: bigint; userspace_addr: bigint }[],
    ]
    expect(table?.length).toBe(3)
    for (const ring of kernel.arguments("VHOST_SET_VRING_ADDR") as Record<string, bigint>[])
      for (const field of ["desc_user_addr", "avail_user_addr", "used_user_addr"])
        expect(
          table?.some(({ userspace_addr: start, memory_size: size }) => {
            const address = ring[field] as bigint
            return address >= start && address < start + size
          }),
        ).toBe(true)
  })

  test("starts the rings that the driver set up, and no others", async () => {
    await attach(card(), { queueSizes: [0, 16] })
    const backends = kernel.arguments("VHOST_NET_SET_BACKEND") as { index: number }[]
    expect(backends.map(({ index }) => index)).toEqual([1])
  })

  test("a start that the kernel refuses breaks the device, and what was set up is taken back", async () => {
    const device = card()
    kernel.refused.set("VHOST_NET_SET_BACKEND", EFAULT)
    const driver = await attach(device)
    expect(await needsReset(driver)).toBe(true)
    // It did not let go either: only closing the node is sure.
    expect(kernel.take().at(-1)).toBe("VHOST_NET_SET_BACKEND")
    kernel.refused.clear()
    await driver.reset({ initialise: false })
    await driver.initialise()
    expect(await needsReset(driver)).toBe(true)
  })

  test("a refusal half-way leaves a device that can be started again", async () => {
    const device = card()
    kernel.refused.set("VHOST_SET_VRING_ADDR", EINVAL)
    const driver = await attach(device)
    expect(await needsReset(driver)).toBe(true)
    kernel.refused.clear()
    await driver.reset({ initialise: false })
    kernel.take()
    await driver.initialise()
    expect(await needsReset(driver)).toBe(false)
    expect(kernel.take()).toEqual([...START, ...RUN_NET])
  })

  test("a ring that the kernel gives up stops the device", async () => {
    const driver = await attach(card())
    const [fault] = kernel.arguments("VHOST_SET_VRING_ERR") as { fd: number }[]
    kernel.take()
    signal((fault as { fd: number }).fd, "eventfd")
    await driver.untilBroken()
    expect(kernel.take()).toEqual([...HALT_NET, ...TAKE_BACK, ...TAKE_BACK])
  })

  test("closed while it runs, it is stopped before its fds go", async () => {
    const device = card()
    await attach(device)
    kernel.take()
    device.close()
    device.close()
    expect(kernel.take()).toEqual([...HALT_NET, ...TAKE_BACK, ...TAKE_BACK])
  })

  test("takes a tap device with one queue pair only", () => {
    using vhost = kernel.open()
    const tap = { ...TAP, fds: [-1, -1] }
    expect(() => new VhostNetDevice(vhost, tap, {}, kernel.ioctl)).toThrow(RangeError)
  })

  test("without virtio 1.0 in the kernel there is none", () => {
    kernel.features = 0n
    using vhost = kernel.open()
    expect(() => new VhostNetDevice(vhost, TAP, {}, kernel.ioctl)).toThrow(
      expect.objectContaining({ code: "unsuitable" }),
    )
  })
})

describe("ring addresses", () => {
  /** As a transport would never pass them on. */
  const context = (desc: number) =>
    ({
      features: VIRTIO_F_VERSION_1,
      hasQueue: () => true,
      queueConfig: () => ({ size: 256, desc, driver: 0, device: 0x2000 }),
    }) as unknown as DeviceContext

  test.each([
    ["behind the end of guest RAM", 0x10_0000],
    ["that begin in guest RAM and do not end there", 0x10_0000 - 16],
    ["that go on in another piece of it", 0x8_0000 - 16],
  ])("%s never reach the kernel", (_where, desc) => {
    const device = socket()
    const half = 0x8_0000
    const regions = [
      { guestAddress: 0, size: half, userAddress: 0x7f00_0000_0000n, fd: -1 },
      { guestAddress: half, size: half, userAddress: 0x7e00_0000_0000n, fd: -1 },
    ]
    device.attachHost({ kicks: [], call: -1, regions: () => regions })
    expect(() => device.activate(context(desc))).toThrow(expect.objectContaining({ code: "ring" }))
    expect(kernel.arguments("VHOST_SET_VRING_ADDR")).toEqual([])
  })
})

describe("a socket device that the kernel serves", () => {
  test("has the CID that it was given, and two rings of the kernel's", async () => {
    const device = socket()
    expect(kernel.arguments("VHOST_VSOCK_SET_GUEST_CID")).toEqual([42n])
    expect(kernel.take()).toEqual(["VHOST_GET_FEATURES", "VHOST_SET_OWNER", "VHOST_VSOCK_SET_GUEST_CID"])
    const config = new Uint8Array(8)
    device.readConfig(0, config)
    expect(config[0]).toBe(42)
    const driver = await attach(device)
    expect(kernel.take()).toEqual([...START, "VHOST_VSOCK_SET_RUNNING"])
    await driver.reset({ initialise: false })
    expect(kernel.arguments("VHOST_VSOCK_SET_RUNNING")).toEqual([0])
    expect(kernel.take()).toEqual(["VHOST_VSOCK_SET_RUNNING", ...TAKE_BACK, ...TAKE_BACK])
  })

  test("has its rings' own kicks, and the one interrupt", async () => {
    await attach(socket())
    const fds = (name: string) =>
      (kernel.arguments(name) as { [K in keyof typeof VHOST_VRING_FILE]: number }[]).map(({ fd }) => fd)
    expect(new Set(fds("VHOST_SET_VRING_KICK")).size).toBe(2)
    expect(new Set(fds("VHOST_SET_VRING_CALL")).size).toBe(1)
  })

  test("does not run on one ring of two", async () => {
    const driver = await attach(socket(), { queueSizes: [16, 0, 16] })
    expect(await needsReset(driver)).toBe(true)
    expect(kernel.arguments("VHOST_VSOCK_SET_RUNNING")).toEqual([0])
  })

  test("a CID that is taken, or no guest's, is refused", () => {
    using vhost = kernel.open()
    expect(() => new VhostVsockDevice(vhost, { guestCid: 2 })).toThrow(RangeError)
    expect(() => new VhostVsockDevice(vhost, { guestCid: 2 ** 32 - 1 })).toThrow(RangeError)
    expect(kernel.seen).toEqual([])
    kernel.refused.set("VHOST_VSOCK_SET_GUEST_CID", EADDRINUSE)
    expect(() => new VhostVsockDevice(vhost, { guestCid: 42 })).toThrow("another guest has this CID")
  })
})
