import { afterEach, describe, expect, test } from "vitest"
import { deviceConformance, direct, type FrontDoor, MockDriver, overMmio } from "../testing/index.js"
import * as defs from "./defs.js"
import { MemDevice } from "./device.js"
import { request, requestBytes } from "./testing.js"

const MIB = 2 ** 20
const BLOCK = defs.BLOCK_SIZE
const REGION = defs.REGION_ALIGNMENT
/** Where the region is, beside the memory of rings and buffers. */
const START = 0x1_4000_0000
const { VIRTIO_MEM_RESP_ACK: ACK, VIRTIO_MEM_RESP_NACK: NACK, VIRTIO_MEM_RESP_ERROR: ERROR } = defs

const drivers: MockDriver[] = []
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver[Symbol.asyncDispose]()
})

function makeDevice(requestedSize = 0, onPlugged?: () => void): MemDevice {
  const device = new MemDevice({ regionSize: REGION, requestedSize, ...(onPlugged ? { onPlugged } : {}) })
  device.deviceMemory.placedAt(START)
  return device
}

/** A device, and a driver whose memory has the first blocks of the region. */
async function attach(device: MemDevice, over: FrontDoor = direct): Promise<MockDriver> {
  const regions = [
    { start: 0, size: MIB },
    { start: START, size: 4 * BLOCK },
  ]
  const driver = await MockDriver.attach(device, over, { regions, heapStart: 0x1_0000 })
  drivers.push(driver)
  return driver
}

const plug = (driver: MockDriver, block: number, count = 1) =>
  request(driver, requestBytes(defs.VIRTIO_MEM_REQ_PLUG, START + block * BLOCK, count))
const unplug = (driver: MockDriver, block: number, count = 1) =>
  request(driver, requestBytes(defs.VIRTIO_MEM_REQ_UNPLUG, START + block * BLOCK, count))
const state = (driver: MockDriver, block: number, count = 1) =>
  request(driver, requestBytes(defs.VIRTIO_MEM_REQ_STATE, START + block * BLOCK, count))
const unplugAll = (driver: MockDriver) => request(driver, requestBytes(defs.VIRTIO_MEM_REQ_UNPLUG_ALL))

async function field(driver: MockDriver, offset: number): Promise<number> {
  return Number(Buffer.from(await driver.port.readConfig(offset, 8)).readBigUInt64LE())
}

describe.each([direct, overMmio])("memory over $name", over => {
  test("config space says where it is and how much there is (5.15.4)", async () => {
    const device = makeDevice(4 * BLOCK)
    const driver = await attach(device, over)
    const { CONFIG } = defs
    const fields = [CONFIG.blockSize, CONFIG.addr, CONFIG.regionSize, CONFIG.usableRegionSize]
    const values = await Promise.all(
      [...fields, CONFIG.pluggedSize, CONFIG.requestedSize].map(at => field(driver, at)),
    )
    expect(values).toEqual([BLOCK, START, REGION, REGION, 0, 4 * BLOCK])
    expect(device.deviceMemory).toMatchObject({ size: REGION, alignment: REGION, parts: "ram" })
  })

  test("blocks are plugged, as many as are requested, and unplugged", async () => {
    const seen: number[] = []
    const device = makeDevice(3 * BLOCK, () => seen.push(device.pluggedSize / BLOCK))
    const driver = await attach(device, over)
    expect(await plug(driver, 0, 2)).toMatchObject({ type: ACK })
    expect(await plug(driver, 2, 2)).toMatchObject({ type: NACK })
    expect(await plug(driver, 3)).toMatchObject({ type: ACK })
    expect(await field(driver, defs.CONFIG.pluggedSize)).toBe(3 * BLOCK)
    expect(await state(driver, 0, 2)).toEqual({ type: ACK, state: defs.VIRTIO_MEM_STATE_PLUGGED })
    expect(await state(driver, 0, 4)).toEqual({ type: ACK, state: defs.VIRTIO_MEM_STATE_MIXED })
    expect(await state(driver, 2)).toEqual({ type: ACK, state: defs.VIRTIO_MEM_STATE_UNPLUGGED })
    expect(await unplug(driver, 0)).toMatchObject({ type: ACK })
    expect(await unplugAll(driver)).toMatchObject({ type: ACK })
    expect(await state(driver, 0, 64)).toEqual({ type: ACK, state: defs.VIRTIO_MEM_STATE_UNPLUGGED })
    expect(seen).toEqual([2, 3, 2, 0])
    expect(device.counters).toEqual({ freedBytes: 3 * BLOCK, refusals: 1, failures: 0 })
  })

  test("the driver is told of another size, and that outlives a reset, as plugged blocks do", async () => {
    const device = makeDevice()
    const driver = await attach(device, over)
    device.setRequestedSize(2 * BLOCK)
    await driver.until(() => driver.configInterrupts > 0, "the configuration interrupt")
    await plug(driver, 1)
    await driver.reset()
    expect(await field(driver, defs.CONFIG.requestedSize)).toBe(2 * BLOCK)
    expect(await state(driver, 1)).toEqual({ type: ACK, state: defs.VIRTIO_MEM_STATE_PLUGGED })
  })
})

test("what was unplugged is gone, and its neighbours are not", async () => {
  const driver = await attach(makeDevice(4 * BLOCK))
  await plug(driver, 0, 3)
  driver.memory.write(START, new Uint8Array(3 * BLOCK).fill(0xa5))
  await unplug(driver, 1)
  const left = [0, 1, 2].map(block => {
    const bytes = new Uint8Array(BLOCK)
    driver.memory.read(START + block * BLOCK, bytes)
    return bytes.every(byte => byte === 0xa5) ? "kept" : bytes.every(byte => byte === 0) ? "gone" : "mixed"
  })
  expect(left).toEqual(["kept", "gone", "kept"])
})

describe("hostile drivers", () => {
  test("Q22: blocks that there are not, or not in that state, change nothing", async () => {
    const device = makeDevice(REGION)
    const driver = await attach(device)
    await plug(driver, 1)
    const blocks = REGION / BLOCK
    for (const type of [defs.VIRTIO_MEM_REQ_PLUG, defs.VIRTIO_MEM_REQ_UNPLUG, defs.VIRTIO_MEM_REQ_STATE])
      for (const [addr, count] of [
        [START, 0],
        [START + 4096, 1],
        [START - BLOCK, 1],
        [START, blocks + 1],
        [START, 0xffff],
        [START + REGION, 1],
        [START + REGION - BLOCK, 2],
        [0, 1],
        [2n ** 53n, 1],
        [2n ** 64n - BigInt(BLOCK), 1],
      ] as const)
        expect(await request(driver, requestBytes(type, addr, count))).toMatchObject({ type: ERROR })
    expect(await plug(driver, 1)).toMatchObject({ type: ERROR })
    expect(await plug(driver, 0, 2)).toMatchObject({ type: ERROR })
    expect(await unplug(driver, 0)).toMatchObject({ type: ERROR })
    expect(await unplug(driver, 0, 2)).toMatchObject({ type: ERROR })
    expect(device.pluggedSize).toBe(BLOCK)
    expect(device.counters.freedBytes).toBe(0)
  })

  test("requests that are none are errors", async () => {
    const driver = await attach(makeDevice(BLOCK))
    for (const bytes of [
      new Uint8Array(1),
      new Uint8Array(23),
      requestBytes(4, START, 1),
      requestBytes(0xffff, START, 1),
    ])
      expect(await request(driver, bytes)).toMatchObject({ type: ERROR })
  })

  test("memory that cannot be freed is counted, and nothing breaks", async () => {
    const device = makeDevice(REGION)
    const driver = await attach(device)
    // The driver's memory has four blocks of the region only.
    await plug(driver, 8)
    expect(await unplug(driver, 8)).toMatchObject({ type: ACK })
    expect(device.counters).toMatchObject({ failures: 1, freedBytes: 0 })
  })
})

test("C8: sizes that cannot be are refused", () => {
  for (const regionSize of [0, -REGION, REGION + BLOCK, 2 ** 41, Number.NaN, 1.5])
    expect(() => new MemDevice({ regionSize })).toThrow(RangeError)
  const device = makeDevice()
  for (const size of [-BLOCK, 1, REGION + BLOCK, Number.NaN, 2 ** 60])
    expect(() => device.setRequestedSize(size)).toThrow(RangeError)
})

describe.each([direct, overMmio])("memory device over $name", over => {
  const works = async (driver: MockDriver) => {
    expect(await state(driver, 0)).toMatchObject({ type: ACK })
  }
  test.each(deviceConformance({ makeDevice: () => makeDevice(BLOCK), over, works }))("$name", ({ run }) =>
    run(),
  )
})
