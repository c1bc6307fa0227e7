import { describe, expect, test } from "vitest"
import { VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1 } from "../features.js"
import * as defs from "./defs.js"
import { EmptyMmioSlot, VIRTIO_MMIO_WINDOW_SIZE } from "./index.js"
import { READ, WRITE } from "./registers.js"
import { attach, KeepingDevice, openPort, readBytes } from "./testing.js"
import { DEFAULT_VENDOR_ID } from "./transport.js"

const ACKNOWLEDGED = 3
const NEGOTIATED = 11
const RUNNING = 15
const NEEDS_RESET = 64

/** Up to and with FEATURES_OK. */
async function negotiated(features = VIRTIO_F_VERSION_1) {
  const port = openPort(new KeepingDevice())
  expect(await port.acknowledge(features)).toBe(true)
  return port
}

describe("identity and features", () => {
  test("say what the device is", () => {
    const port = openPort(new KeepingDevice(), { vendorId: 0x1234 })
    const at = (offset: number) => port.read32(offset)
    expect(new TextDecoder().decode(readBytes(port, defs.VIRTIO_MMIO_MAGIC_VALUE, 4))).toBe("virt")
    expect(at(defs.VIRTIO_MMIO_VERSION)).toBe(2)
    expect(at(defs.VIRTIO_MMIO_DEVICE_ID)).toBe(42)
    expect(at(defs.VIRTIO_MMIO_VENDOR_ID)).toBe(0x1234)
    expect(openPort(new KeepingDevice()).read32(defs.VIRTIO_MMIO_VENDOR_ID)).toBe(DEFAULT_VENDOR_ID)
    expect(at(defs.VIRTIO_MMIO_STATUS)).toBe(0)
  })

  test("offered features come in words of 32, and end", () => {
    const port = openPort(new KeepingDevice())
    const words = [0, 1, 2, 3, 4, 0xffff_ffff].map(word => {
      port.write32(defs.VIRTIO_MMIO_DEVICE_FEATURES_SEL, word)
      return port.read32(defs.VIRTIO_MMIO_DEVICE_FEATURES)
    })
    expect(words[0]).toBe(0b101 | (3 << 28))
    expect(words[1]).toBe((1 << 0) | (1 << 2) | (1 << 8) | (1 << 19))
    expect(words.slice(2)).toEqual([0, 0, 0, 0])
  })

  test("packed rings are offered unless told not to; queue reset always", async () => {
    expect((await openPort(new KeepingDevice()).offeredFeatures()) & VIRTIO_F_RING_PACKED).not.toBe(0n)
    const offered = await openPort(new KeepingDevice(), { packed: false }).offeredFeatures()
    expect([offered & VIRTIO_F_RING_PACKED, offered & VIRTIO_F_RING_RESET]).toEqual([0n, VIRTIO_F_RING_RESET])
  })

  test("halves of the driver's features compose in any order, and can be written again", async () => {
    const { device, port } = await attach(new KeepingDevice(), {}, { queueSizes: [0, 0] })
    await port.reset()
    port.write32(defs.VIRTIO_MMIO_STATUS, ACKNOWLEDGED)
    for (const [word, bits] of [
      [1, 0xffff_ffff],
      [0, 0b101],
      [1, 1 | (1 << 19)],
      [0, 0b100],
    ] as const) {
      port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES_SEL, word)
      port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES, bits)
    }
    port.write32(defs.VIRTIO_MMIO_STATUS, RUNNING)
    expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(RUNNING)
    expect(device.ctx?.features).toBe(0b100n | VIRTIO_F_VERSION_1 | (1n << 51n))
  })

  test.each([
    { what: "a bit that was not offered", word: 0, bits: 0b111 },
    { what: "a bit beyond 64", word: 2, bits: 1 },
    { what: "no VERSION_1", word: 1, bits: 0 },
  ])("T1: FEATURES_OK stays clear for $what", async ({ word, bits }) => {
    const port = openPort(new KeepingDevice())
    port.write32(defs.VIRTIO_MMIO_STATUS, ACKNOWLEDGED)
    port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1)
    port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES, 1)
    port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES_SEL, word)
    port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES, bits)
    port.write32(defs.VIRTIO_MMIO_STATUS, NEGOTIATED)
    expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(ACKNOWLEDGED)
    // The driver may think again.
    port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES, word === 1 ? 1 : 0)
    port.write32(defs.VIRTIO_MMIO_STATUS, NEGOTIATED)
    expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(NEGOTIATED)
  })

  test("T1: words that no feature can be in are refused, and spoil nothing", async () => {
    const port = openPort(new KeepingDevice())
    port.write32(defs.VIRTIO_MMIO_STATUS, ACKNOWLEDGED)
    port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1)
    port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES, 1)
    for (const word of [4, 0x7fff_ffff, 0xffff_ffff]) {
      port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES_SEL, word)
      port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES, 0xffff_ffff)
    }
    expect(port.transport.counters.refusals).toBe(3)
    port.write32(defs.VIRTIO_MMIO_STATUS, NEGOTIATED)
    expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(NEGOTIATED)
  })

  test("T1: features are frozen from FEATURES_OK on", async () => {
    const { port, device, counters } = await attach(new KeepingDevice(), {}, { holdBack: true })
    const before = counters.refusals
    for (const word of [0, 1, 2]) {
      port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES_SEL, word)
      port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES, 0)
    }
    expect(counters.refusals).toBe(before + 3)
    await port.driverOk()
    expect((device.ctx?.features ?? 0n) & VIRTIO_F_VERSION_1).toBe(VIRTIO_F_VERSION_1)
  })
})

describe("status", () => {
  test.each([
    { what: "DRIVER before ACKNOWLEDGE", writes: [2], status: 0 },
    { what: "FEATURES_OK before DRIVER", writes: [1, 9], status: 1 },
    { what: "DRIVER_OK before FEATURES_OK", writes: [1, 3, 7], status: 3 },
    { what: "a bit taken back", writes: [3, 1], status: 3 },
    { what: "a bit that is none", writes: [3, 3 | 16], status: 3 },
    { what: "a bit beyond 8", writes: [3, 3 | 256], status: 3 },
    { what: "DEVICE_NEEDS_RESET set by the driver", writes: [3, 3 | 64], status: 3 },
  ])("T2: $what is refused and changes nothing", ({ writes, status }) => {
    const port = openPort(new KeepingDevice())
    for (const value of writes) port.write32(defs.VIRTIO_MMIO_STATUS, value)
    expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(status)
    expect(port.transport.counters.refusals).toBe(1)
  })

  test("T2: DRIVER_OK twice activates once", async () => {
    const { device, port, counters } = await attach(new KeepingDevice())
    port.write32(defs.VIRTIO_MMIO_STATUS, RUNNING)
    port.write32(defs.VIRTIO_MMIO_STATUS, NEGOTIATED)
    expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(RUNNING)
    expect(device.log).toEqual(["activate"])
    expect([counters.refusals, counters.activations]).toEqual([2, 1])
  })

  test("T2: FAILED ends set-up until reset", async () => {
    const port = await negotiated()
    port.write32(defs.VIRTIO_MMIO_STATUS, NEGOTIATED | 128)
    port.write32(defs.VIRTIO_MMIO_QUEUE_READY, 1)
    expect(port.read32(defs.VIRTIO_MMIO_QUEUE_READY)).toBe(0)
    await port.reset()
    expect(await port.acknowledge(VIRTIO_F_VERSION_1)).toBe(true)
  })
})

describe("queue set-up", () => {
  test.each([0, 3, 12, 17, 32, 65536, 0xffff_ffff])("T3: a size of %s is not taken", async size => {
    const port = await negotiated()
    port.write32(defs.VIRTIO_MMIO_QUEUE_NUM, size)
    expect(port.transport.counters.refusals).toBe(1)
    expect(port.read32(defs.VIRTIO_MMIO_QUEUE_READY)).toBe(0)
  })

  test("T3: a size that was refused leaves the one before", async () => {
    const { device, driver, port } = await attach(
      new KeepingDevice(),
      {},
      { queueSizes: [0, 0], holdBack: true },
    )
    port.write32(defs.VIRTIO_MMIO_QUEUE_NUM, 8)
    port.write32(defs.VIRTIO_MMIO_QUEUE_NUM, 0)
    await driver.setUpQueue(0, driver.placeQueue(8))
    await port.driverOk()
    expect(device.ctx?.hasQueue(0)).toBe(true)
    expect(port.read32(defs.VIRTIO_MMIO_QUEUE_NUM_MAX)).toBe(16)
  })

  test.each([
    { what: "a misaligned descriptor table", over: { desc: 2 ** 32 + 8 } },
    { what: "a misaligned driver area", over: { driver: 2 ** 32 + 0x1001 } },
    { what: "a device area outside memory", over: { device: 0x8000_0000 } },
    { what: "a descriptor table beyond 2^53", over: { desc: 2 ** 63 } },
    { what: "a descriptor table at the last bytes there are", over: { desc: 2 ** 64 - 2048 } },
    { what: "areas that overlap", over: { driver: 2 ** 32 } },
  ])("T4: $what breaks the device at DRIVER_OK, and a reset mends it", async ({ over }) => {
    const good = { size: 16, desc: 2 ** 32, driver: 2 ** 32 + 0x1000, device: 2 ** 32 + 0x2000 }
    const reasons: Error[] = []
    const onBroken = (reason: Error) => void reasons.push(reason)
    const { device, driver, port } = await attach(
      new KeepingDevice(),
      { onBroken },
      { queueSizes: [0, 0], holdBack: true },
    )
    await port.setUpQueue(0, { ...good, ...over })
    await port.driverOk()
    expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(RUNNING | NEEDS_RESET)
    expect([driver.configInterrupts, reasons.length, device.log]).toEqual([1, 1, []])
    await driver.reset()
    await driver.setUpQueue(0, good)
    await port.driverOk()
    expect([port.read32(defs.VIRTIO_MMIO_STATUS), device.log]).toEqual([RUNNING, ["activate"]])
  })

  test.each([2, 3, 0x101, 0xffff_ffff])("ready takes 0 and 1, not %s", async value => {
    const port = await negotiated()
    port.write32(defs.VIRTIO_MMIO_QUEUE_READY, value)
    expect([port.read32(defs.VIRTIO_MMIO_QUEUE_READY), port.transport.counters.refusals]).toEqual([0, 1])
  })

  test("an address is what its halves say, in whichever order they come", async () => {
    const { device, driver, port } = await attach(
      new KeepingDevice(),
      {},
      { queueSizes: [0, 0], holdBack: true },
    )
    port.write32(defs.VIRTIO_MMIO_QUEUE_DESC_HIGH, 0xffff_ffff)
    port.write32(defs.VIRTIO_MMIO_QUEUE_DESC_LOW, 0xffff_fff0)
    const config = driver.placeQueue(16)
    port.write32(defs.VIRTIO_MMIO_QUEUE_DESC_LOW, config.desc % 2 ** 32)
    port.write32(defs.VIRTIO_MMIO_QUEUE_DESC_HIGH, Math.floor(config.desc / 2 ** 32))
    await driver.setUpQueue(0, config)
    await port.driverOk()
    driver.post(0, [driver.writable(8)])
    expect(device.chains.length).toBe(1)
  })

  test("T6: a queue that is not there reads as zeroes and takes nothing", async () => {
    const port = await negotiated()
    for (const index of [2, 1000, 65536, 0xffff_ffff]) {
      await port.setUpQueue(index, { size: 4, desc: 0, driver: 0x100, device: 0x200 })
      const before = port.transport.counters.refusals
      expect(port.read32(defs.VIRTIO_MMIO_QUEUE_NUM_MAX)).toBe(0)
      expect(port.read32(defs.VIRTIO_MMIO_QUEUE_READY)).toBe(0)
      expect(port.read32(defs.VIRTIO_MMIO_QUEUE_RESET)).toBe(0)
      port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, 1)
      expect(port.transport.counters.refusals).toBe(before + 1)
    }
    await port.driverOk()
    expect([await port.queueCount(), await port.needsReset()]).toEqual([2, false])
  })

  test("Q18: nothing of a queue can be changed once it is ready, or the device runs", async () => {
    const { driver, port, device, counters } = await attach(new KeepingDevice(), {}, { queueSizes: [16, 0] })
    const before = counters.refusals
    for (const index of [0, 1])
      await port.setUpQueue(index, { size: 4, desc: 0, driver: 0x100, device: 0x200 })
    // Size, six halves and ready, for each queue.
    expect(counters.refusals).toBe(before + 16)
    driver.post(0, [driver.writable(8)])
    expect([device.chains.length, device.ctx?.hasQueue(1)]).toEqual([1, false])
    port.write32(defs.VIRTIO_MMIO_QUEUE_READY, 2)
    expect(counters.refusals).toBe(before + 17)
  })
})

describe("notifications", () => {
  test.each(["register", "ioeventfd"])("Q19: by %s reach queues that are ready, and no others", async how => {
    const { device, driver, port, transport, counters } = await attach(
      new KeepingDevice(),
      {},
      { queueSizes: [16, 0] },
    )
    const notify = (index: number) => {
      if (how === "ioeventfd") transport.notify(index)
      else port.write32(defs.VIRTIO_MMIO_QUEUE_NOTIFY, index)
    }
    driver.queue(0).post([driver.writable(8)])
    for (const index of [1, 2, 65535, 0xffff_ffff]) notify(index)
    expect([device.chains.length, counters.notificationsIgnored]).toEqual([0, 4])
    notify(0)
    expect([device.chains.length, transport.queueCount]).toEqual([1, 2])
    await port.reset()
    notify(0)
    expect([device.chains.length, counters.notificationsIgnored, counters.refusals]).toEqual([1, 5, 0])
  })
})

describe("shared memory", () => {
  const at = (port: ReturnType<typeof openPort>, id: number) => {
    port.write32(defs.VIRTIO_MMIO_SHM_SEL, id)
    const registers = [
      defs.VIRTIO_MMIO_SHM_BASE_HIGH,
      defs.VIRTIO_MMIO_SHM_BASE_LOW,
      defs.VIRTIO_MMIO_SHM_LEN_HIGH,
      defs.VIRTIO_MMIO_SHM_LEN_LOW,
    ]
    return registers.map(offset => port.read32(offset))
  }

  test("regions are found by id; others read as all ones", () => {
    const sharedMemory = [{ id: 1, base: 0x12_3456_7000, length: 2 ** 33 + 4096 }]
    const port = openPort(Object.assign(new KeepingDevice(), { sharedMemory }))
    expect(at(port, 1)).toEqual([0x12, 0x3456_7000, 2, 4096])
    for (const id of [0, 2, 256, 0xffff_ffff]) expect(at(port, id)).toEqual(new Array(4).fill(0xffff_ffff))
  })

  test.each([
    [{ id: 256, base: 0, length: 1 }],
    [{ id: 0, base: -1, length: 1 }],
    [{ id: 0, base: 0, length: 0 }],
    [{ id: 0, base: 0, length: 2 ** 53 }],
  ])("region %o is the caller's mistake", region => {
    expect(() => openPort(Object.assign(new KeepingDevice(), { sharedMemory: [region] }))).toThrow(RangeError)
  })
})

describe("accesses that are none", () => {
  test("T5: other widths than 32 bits read zeroes, write nothing, and are counted", async () => {
    const { port, transport, counters } = await attach(new KeepingDevice())
    for (let offset = 0; offset < defs.VIRTIO_MMIO_CONFIG; offset++) {
      for (const width of [0, 1, 2, 3, 5, 8, 16]) {
        const before = counters.refusals
        expect(readBytes(port, offset, width)).toEqual(new Uint8Array(width))
        transport.write(offset, new Uint8Array(width))
        expect(counters.refusals).toBe(before + 2)
      }
    }
    expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(RUNNING)
  })

  test("T5: offsets that are no register, unaligned ones included, neither read nor write", async () => {
    const { port, counters } = await attach(new KeepingDevice())
    for (let offset = 0; offset < defs.VIRTIO_MMIO_CONFIG; offset++) {
      const before = counters.refusals
      const [readable, writable] = [READ[offset] !== undefined, WRITE[offset] !== undefined]
      if (!readable) expect(port.read32(offset)).toBe(0)
      if (!writable) port.write32(offset, 0)
      expect(counters.refusals - before).toBe(Number(!readable) + Number(!writable))
      expect((!readable && !writable) || offset % 4 === 0).toBe(true)
    }
  })

  test("T5: beyond the window nothing is read or written", async () => {
    const { port, transport, device } = await attach(new KeepingDevice())
    for (const offset of [
      VIRTIO_MMIO_WINDOW_SIZE,
      VIRTIO_MMIO_WINDOW_SIZE + 0x100,
      2 ** 40,
      -4,
      Number.NaN,
      0.5,
    ]) {
      expect(port.read32(offset)).toBe(0)
      transport.write(offset, new Uint8Array(4).fill(1))
    }
    expect(readBytes(port, VIRTIO_MMIO_WINDOW_SIZE - 4, 8)).toEqual(new Uint8Array(8))
    expect(device.config[0]).toBe(0xa0)
    expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(RUNNING)
  })

  test("an empty slot has device id 0 and takes nothing", () => {
    const slot = new EmptyMmioSlot()
    const at = (offset: number, width = 4) => {
      const bytes = new Uint8Array(width).fill(0xee)
      slot.read(offset, bytes)
      return [...bytes]
    }
    slot.write(defs.VIRTIO_MMIO_STATUS, Uint8Array.of(1, 0, 0, 0))
    expect(at(defs.VIRTIO_MMIO_MAGIC_VALUE)).toEqual([...new TextEncoder().encode("virt")])
    expect(at(defs.VIRTIO_MMIO_VERSION)).toEqual([2, 0, 0, 0])
    for (const offset of [defs.VIRTIO_MMIO_DEVICE_ID, defs.VIRTIO_MMIO_STATUS, defs.VIRTIO_MMIO_CONFIG])
      expect(at(offset)).toEqual([0, 0, 0, 0])
    expect(at(defs.VIRTIO_MMIO_VERSION, 8)).toEqual(new Array(8).fill(0))
  })
})
