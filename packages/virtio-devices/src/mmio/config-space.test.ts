import { describe, expect, test } from "vitest"
import * as defs from "./defs.js"
import { attach, KeepingDevice, openPort, readBytes } from "./testing.js"

const END_OF_WINDOW = defs.VIRTIO_MMIO_WINDOW_SIZE
const generation = (port: ReturnType<typeof openPort>) => port.read32(defs.VIRTIO_MMIO_CONFIG_GENERATION)

describe("config space", () => {
  test("is read in any width at any offset", () => {
    const device = new KeepingDevice()
    const port = openPort(device)
    for (const width of [1, 2, 3, 4, 8, 16]) {
      for (let offset = 0; offset + width <= device.config.length; offset++) {
        const bytes = readBytes(port, defs.VIRTIO_MMIO_CONFIG + offset, width)
        expect(bytes).toEqual(device.config.slice(offset, offset + width))
      }
    }
    expect(port.transport.counters.refusals).toBe(0)
  })

  test("T7: past its end it reads as zeroes, across the end of the window too", () => {
    const device = new KeepingDevice()
    const port = openPort(device)
    const across = readBytes(port, defs.VIRTIO_MMIO_CONFIG + 16, 8)
    expect(across).toEqual(Uint8Array.of(...device.config.slice(16), 0, 0, 0, 0))
    for (const offset of [defs.VIRTIO_MMIO_CONFIG + 20, END_OF_WINDOW - 8, END_OF_WINDOW - 1, END_OF_WINDOW])
      expect(readBytes(port, offset, 8)).toEqual(new Uint8Array(8))
    expect(port.transport.counters.refusals).toBe(2)
  })

  test("T7: a write to read-only fields, past the end or past the window changes nothing", () => {
    const device = new KeepingDevice()
    const port = openPort(device)
    const before = device.config.slice()
    const ones = new Uint8Array(8).fill(0xff)
    for (const offset of [1, 12, 19, 20, 256, 2048])
      port.transport.write(defs.VIRTIO_MMIO_CONFIG + offset, ones)
    expect(port.transport.counters.refusals).toBe(0)
    for (const offset of [END_OF_WINDOW - 4, END_OF_WINDOW, 2 ** 52]) port.transport.write(offset, ones)
    expect(port.transport.counters.refusals).toBe(3)
    expect(device.config).toEqual(before)
    port.transport.write(defs.VIRTIO_MMIO_CONFIG, Uint8Array.of(7))
    expect(device.config[0]).toBe(7)
  })

  test("T7: a device without any reads as zeroes and takes nothing", () => {
    const nothing = () => undefined
    const bare = {
      type: 1,
      queueSizes: [4],
      features: 0n,
      activate: nothing,
      notify: nothing,
      reset: nothing,
    }
    const port = openPort(bare)
    expect(readBytes(port, defs.VIRTIO_MMIO_CONFIG, 4)).toEqual(new Uint8Array(4))
    port.transport.write(defs.VIRTIO_MMIO_CONFIG, Uint8Array.of(1))
    expect(port.transport.counters.refusals).toBe(1)
    expect(generation(port)).toBe(0)
  })

  test.each([
    { what: "readConfig", holdBack: false },
    { what: "writeConfig", holdBack: false },
    { what: "readConfig", holdBack: true },
    { what: "writeConfig", holdBack: true },
  ] as const)("a device that throws in $what breaks once, before DRIVER_OK too: $holdBack", async options => {
    const { what, holdBack } = options
    const { device, driver, port, counters } = await attach(new KeepingDevice(), {}, { holdBack })
    device[what] = () => {
      throw new Error("bug in the device")
    }
    for (let i = 0; i < 3; i++) {
      expect(readBytes(port, defs.VIRTIO_MMIO_CONFIG, 4).length).toBe(4)
      port.transport.write(defs.VIRTIO_MMIO_CONFIG, Uint8Array.of(1))
    }
    expect([counters.deviceErrors, driver.configInterrupts]).toEqual([1, 1])
    expect(await port.needsReset()).toBe(true)
  })
})

describe("generation", () => {
  test("stands still while nothing changes", () => {
    const port = openPort(new KeepingDevice())
    const first = generation(port)
    readBytes(port, defs.VIRTIO_MMIO_CONFIG, 8)
    expect([generation(port), generation(port)]).toEqual([first, first])
  })

  test("T7: a look at config space torn by a change shows, announced or not, active or not", async () => {
    const device = new KeepingDevice()
    const { port } = await attach(device, {}, { holdBack: true })
    const torn = (change: () => void) => {
      const before = generation(port)
      readBytes(port, defs.VIRTIO_MMIO_CONFIG, 4)
      change()
      readBytes(port, defs.VIRTIO_MMIO_CONFIG + 4, 4)
      return generation(port) !== before
    }
    const change = (at: number) => {
      device.config[at] = (device.config[at]! + 1) & 0xff
    }
    expect(torn(() => undefined)).toBe(false)
    expect(torn(() => change(6))).toBe(true)
    await port.driverOk()
    expect(torn(() => change(2))).toBe(true)
    // There and back again: the contents alone would not tell.
    expect(
      torn(() => {
        change(6)
        device.ctx?.configChanged()
        device.config[6]!--
      }),
    ).toBe(true)
  })

  test("an announced change interrupts, with the status bit of configuration alone", async () => {
    const { device, driver, port } = await attach(new KeepingDevice())
    device.config[3] = 1
    device.ctx?.configChanged()
    expect([driver.configInterrupts, driver.interrupts(0), port.edges]).toEqual([1, 0, 1])
    expect((await port.readConfig(3, 1))[0]).toBe(1)
  })
})
