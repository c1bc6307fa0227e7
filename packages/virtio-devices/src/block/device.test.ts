import { afterEach, describe, expect, test } from "vitest"
import {
  deviceConformance,
  direct,
  MockDriver,
  type MockDriverOptions,
  overMmio,
  overVhostUser,
} from "../testing/index.js"
import * as defs from "./defs.js"
import { BlockDevice } from "./device.js"
import { memoryBackend } from "./memory-backend.js"
import type { BlockDeviceOptions } from "./options.js"
import { BlockDriver, NO_STATUS, rangeSegment, requestHeader } from "./testing.js"

const SECTORS = 2048
const DISK_SIZE = SECTORS * 512
const OK = defs.VIRTIO_BLK_S_OK
const IOERR = defs.VIRTIO_BLK_S_IOERR
const UNSUPP = defs.VIRTIO_BLK_S_UNSUPP
const closers: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

const pattern = (length: number) => Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 9)) & 0xff)

describe.each([direct, overVhostUser, overMmio])("block device over $name", over => {
  async function attach(
    options: BlockDeviceOptions & { readOnly?: boolean } = {},
    driverOptions: MockDriverOptions = {},
  ) {
    const disk = memoryBackend(DISK_SIZE, options)
    disk.bytes.set(pattern(DISK_SIZE))
    closers.push(() => disk.close())
    const device = new BlockDevice(disk, options)
    const driver = await MockDriver.attach(device, over, driverOptions)
    closers.push(() => driver[Symbol.asyncDispose]())
    return { disk, device, driver, block: new BlockDriver(driver) }
  }

  test.each([false, true])("reads sectors into several buffers (packed: %s)", async packed => {
    const { block, disk } = await attach({}, { packed })
    const result = await block.request(defs.VIRTIO_BLK_T_IN, 3, { writable: [512, 1024, 100, 412] })
    expect(result).toMatchObject({ status: OK, length: 2049 })
    expect(result.data).toEqual(disk.bytes.slice(3 * 512, 3 * 512 + 2048))
  })

  test.each([false, true])("writes sectors from several buffers (packed: %s)", async packed => {
    const { block, disk } = await attach({}, { packed })
    const data = Uint8Array.from({ length: 1536 }, (_, i) => i & 0xff)
    const result = await block.request(defs.VIRTIO_BLK_T_OUT, 5, {
      data: [data.subarray(0, 700), data.subarray(700)],
    })
    expect(result).toMatchObject({ status: OK, length: 1 })
    expect(disk.bytes.slice(5 * 512, 5 * 512 + 1536)).toEqual(data)
  })

  test("config space describes the disk", async () => {
    const { driver, device } = await attach({ queues: 3, blockSize: 4096 })
    const config = new DataView((await driver.port.readConfig(0, 64)).slice().buffer)
    expect(config.getBigUint64(defs.CONFIG.capacity, true)).toBe(BigInt(SECTORS))
    expect(config.getUint32(defs.CONFIG.segMax, true)).toBe(254)
    expect(config.getUint32(defs.CONFIG.blkSize, true)).toBe(4096)
    expect(config.getUint16(defs.CONFIG.numQueues, true)).toBe(3)
    expect(config.getUint32(defs.CONFIG.maxDiscardSeg, true)).toBe(16)
    expect(config.getUint32(60, true)).toBe(0)
    expect(device.features & defs.VIRTIO_BLK_F_MQ).not.toBe(0n)
  })

  test("every queue serves requests", async () => {
    const { driver } = await attach({ queues: 4 })
    for (let queue = 0; queue < 4; queue++) {
      const result = await new BlockDriver(driver, queue).request(defs.VIRTIO_BLK_T_IN, queue, {
        writable: [512],
      })
      expect(result.data).toEqual(pattern(DISK_SIZE).slice(queue * 512, queue * 512 + 512))
      await driver.port.settle()
      expect(driver.interrupts(queue)).toBe(1)
    }
  })

  test("flush succeeds, and get-id gives the serial", async () => {
    const { block, device } = await attach({ serial: "abc123" })
    expect((await block.request(defs.VIRTIO_BLK_T_FLUSH, 0)).status).toBe(OK)
    const { status, data } = await block.request(defs.VIRTIO_BLK_T_GET_ID, 0, { writable: [20] })
    expect(status).toBe(OK)
    expect(Buffer.from(data).toString("latin1")).toBe("abc123".padEnd(20, "\0"))
    expect(device.counters.flushes).toBe(1)
  })

  test("discard and write-zeroes leave zeroes and nothing else changed", async () => {
    const { block, disk } = await attach()
    const ranges = Buffer.concat([rangeSegment(8, 8), rangeSegment(32, 4)])
    expect((await block.request(defs.VIRTIO_BLK_T_DISCARD, 0, { data: [ranges] })).status).toBe(OK)
    for (const flags of [0, defs.VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP]) {
      const zeroes = await block.request(defs.VIRTIO_BLK_T_WRITE_ZEROES, 0, {
        data: [rangeSegment(100 + flags, 1, flags)],
      })
      expect(zeroes.status).toBe(OK)
    }
    const expected = pattern(DISK_SIZE)
    for (const [sector, sectors] of [
      [8, 8],
      [32, 4],
      [100, 2],
    ] as const) {
      expected.fill(0, sector * 512, (sector + sectors) * 512)
    }
    expect(Buffer.compare(disk.bytes, expected)).toBe(0)
  })

  test("a burst of requests completes with every answer right and few interrupts", async () => {
    const { driver, disk } = await attach({}, { queueSizes: [256] })
    const buffers = Array.from({ length: 64 }, (_, i) => {
      const data = driver.writable(512)
      const status = driver.writable(1)
      driver.queue(0).post([driver.readable(requestHeader(defs.VIRTIO_BLK_T_IN, i * 3)), data, status])
      return { data, status, sector: i * 3 }
    })
    driver.port.kick(0)
    for (let i = 0; i < buffers.length; i++) await driver.nextUsed(0)
    for (const { data, status, sector } of buffers) {
      expect(status.bytes()[0]).toBe(OK)
      expect(data.bytes()).toEqual(disk.bytes.slice(sector * 512, sector * 512 + 512))
    }
    await driver.port.settle()
    expect(driver.interrupts(0)).toBeLessThanOrEqual(2)
  })

  test("B1: a sector beyond the disk, a wrapping sector, and a partial sector end in IOERR and change nothing", async () => {
    const { block, disk, device } = await attach()
    const before = disk.bytes.slice()
    const sectors = [SECTORS, SECTORS - 1, 2 ** 52, 1n << 55n, (1n << 64n) - 1n]
    for (const sector of sectors) {
      expect((await block.request(defs.VIRTIO_BLK_T_IN, sector, { writable: [1024] })).status).toBe(IOERR)
      expect(
        (await block.request(defs.VIRTIO_BLK_T_OUT, sector, { data: [new Uint8Array(1024)] })).status,
      ).toBe(IOERR)
    }
    for (const length of [1, 511, 513]) {
      expect((await block.request(defs.VIRTIO_BLK_T_IN, 0, { writable: [length] })).status).toBe(IOERR)
      expect((await block.request(defs.VIRTIO_BLK_T_OUT, 0, { data: [new Uint8Array(length)] })).status).toBe(
        IOERR,
      )
    }
    expect((await block.request(defs.VIRTIO_BLK_T_IN, 0)).status).toBe(IOERR)
    expect(Buffer.compare(disk.bytes, before)).toBe(0)
    expect(device.counters.failed).toBe(2 * sectors.length + 7)
    expect((await block.request(defs.VIRTIO_BLK_T_IN, SECTORS - 1, { writable: [512] })).status).toBe(OK)
  })

  test("B2: an unknown type is UNSUPP, a short or missing header IOERR, a split header is fine", async () => {
    const { block, driver, disk } = await attach()
    for (const type of [2, 3, 5, 99, 0xffff_ffff]) expect((await block.request(type, 0)).status).toBe(UNSUPP)
    expect((await block.send([], [driver.writable(512)])).status).toBe(IOERR)
    expect((await block.send([driver.readable(new Uint8Array(15))], [driver.writable(512)])).status).toBe(
      IOERR,
    )
    const header = requestHeader(defs.VIRTIO_BLK_T_IN, 1)
    const split = [header.subarray(0, 3), header.subarray(3, 9), header.subarray(9)].map(part =>
      driver.readable(part),
    )
    const result = await block.send(split, [driver.writable(512)])
    expect(result).toMatchObject({ status: OK, data: disk.bytes.slice(512, 1024) })
  })

  test("B2: without room for a status nothing is done and nothing is written", async () => {
    const { driver, disk } = await attach()
    const data = driver.readable(new Uint8Array(512).fill(0xaa))
    const used = await driver.send(0, [driver.readable(requestHeader(defs.VIRTIO_BLK_T_OUT, 0)), data])
    expect(used.length).toBe(0)
    expect(disk.bytes[0]).toBe(pattern(1)[0])
    expect((await new BlockDriver(driver).request(defs.VIRTIO_BLK_T_IN, 0, { writable: [512] })).status).toBe(
      OK,
    )
  })

  test("B2: a status in a device-readable buffer stays as it was", async () => {
    const { driver } = await attach()
    const status = driver.readable(Uint8Array.of(NO_STATUS))
    await driver.send(0, [driver.readable(requestHeader(defs.VIRTIO_BLK_T_FLUSH)), status])
    expect(status.bytes()[0]).toBe(NO_STATUS)
  })

  test("B3: ranges that overflow, are too many, too large, or carry wrong flags are refused", async () => {
    const { block, disk } = await attach()
    const before = disk.bytes.slice()
    const discard = (data: Uint8Array) => block.request(defs.VIRTIO_BLK_T_DISCARD, 0, { data: [data] })
    expect((await discard(rangeSegment(SECTORS - 1, 2))).status).toBe(IOERR)
    expect((await discard(rangeSegment((1n << 64n) - 1n, 2))).status).toBe(IOERR)
    expect((await discard(rangeSegment(0, 0xffff_ffff))).status).toBe(IOERR)
    expect((await discard(new Uint8Array(0))).status).toBe(IOERR)
    expect((await discard(new Uint8Array(15))).status).toBe(IOERR)
    expect((await discard(Buffer.concat(Array.from({ length: 17 }, () => rangeSegment(0, 1))))).status).toBe(
      IOERR,
    )
    expect((await discard(rangeSegment(0, 1, 1))).status).toBe(UNSUPP)
    const zeroes = await block.request(defs.VIRTIO_BLK_T_WRITE_ZEROES, 0, { data: [rangeSegment(0, 1, 2)] })
    expect(zeroes.status).toBe(UNSUPP)
    // One bad range spoils the good ones before it too.
    expect((await discard(Buffer.concat([rangeSegment(0, 1), rangeSegment(SECTORS, 1)]))).status).toBe(IOERR)
    expect(Buffer.compare(disk.bytes, before)).toBe(0)
  })

  test("B3: discard is UNSUPP when it was not negotiated", async () => {
    const without = (offered: bigint) =>
      offered & ~(defs.VIRTIO_BLK_F_DISCARD | defs.VIRTIO_BLK_F_WRITE_ZEROES)
    const { block } = await attach({}, { features: without })
    const result = await block.request(defs.VIRTIO_BLK_T_DISCARD, 0, { data: [rangeSegment(0, 1)] })
    expect(result.status).toBe(UNSUPP)
  })

  test("B4: a read-only disk says so and refuses write, flush, discard and write-zeroes", async () => {
    const { block, device, disk } = await attach({ readOnly: true })
    expect(device.features & defs.VIRTIO_BLK_F_RO).not.toBe(0n)
    const before = disk.bytes.slice()
    const attempts = [
      block.request.bind(block, defs.VIRTIO_BLK_T_OUT, 0, { data: [new Uint8Array(512)] }),
      block.request.bind(block, defs.VIRTIO_BLK_T_FLUSH, 0, {}),
      block.request.bind(block, defs.VIRTIO_BLK_T_DISCARD, 0, { data: [rangeSegment(0, 1)] }),
      block.request.bind(block, defs.VIRTIO_BLK_T_WRITE_ZEROES, 0, { data: [rangeSegment(0, 1)] }),
    ]
    for (const attempt of attempts) expect((await attempt()).status).toBe(IOERR)
    expect(Buffer.compare(disk.bytes, before)).toBe(0)
    expect((await block.request(defs.VIRTIO_BLK_T_IN, 0, { writable: [512] })).status).toBe(OK)
  })

  test("B5: a get-id buffer that is too short gets a short copy, SCSI pass-through is UNSUPP", async () => {
    const { block } = await attach({ serial: "0123456789abcdefghij" })
    const short = await block.request(defs.VIRTIO_BLK_T_GET_ID, 0, { writable: [5] })
    expect(short).toMatchObject({ status: OK, data: Uint8Array.from(Buffer.from("01234")) })
    expect((await block.request(defs.VIRTIO_BLK_T_GET_ID, 0)).status).toBe(OK)
    const long = await block.request(defs.VIRTIO_BLK_T_GET_ID, 0, { writable: [64] })
    expect(Buffer.from(long.data).toString("latin1")).toBe("0123456789abcdefghij".padEnd(64, "\0"))
    expect((await block.request(2, 0)).status).toBe(UNSUPP)
  })

  test("Q21: a reset in the middle of a burst loses nothing of what comes after", async () => {
    const { driver, block } = await attach({}, { queueSizes: [64] })
    for (let round = 0; round < 5; round++) {
      for (let i = 0; i < 16; i++) {
        driver
          .queue(0)
          .post([
            driver.readable(requestHeader(defs.VIRTIO_BLK_T_IN, i)),
            driver.writable(4096),
            driver.writable(1),
          ])
      }
      driver.port.kick(0)
      await driver.reset()
      expect((await block.request(defs.VIRTIO_BLK_T_IN, 1, { writable: [512] })).status).toBe(OK)
    }
  })

  const works = async (driver: MockDriver) => {
    const { status } = await new BlockDriver(driver).request(defs.VIRTIO_BLK_T_IN, 2, {
      writable: [512, 512],
    })
    expect(status).toBe(OK)
  }
  const makeDevice = () => {
    const disk = memoryBackend(DISK_SIZE)
    closers.push(() => disk.close())
    return new BlockDevice(disk)
  }
  test.each(deviceConformance({ makeDevice, over, works }))("$name", ({ run }) => run())

  test("a guest fault stops the device and a reset makes it work again", async () => {
    const { driver, block } = await attach()
    driver.queue(0).post([{ address: 2 ** 40, length: 16, writable: false, bytes: () => new Uint8Array(0) }])
    driver.port.kick(0)
    await driver.untilBroken()
    expect(driver.configInterrupts).toBeGreaterThanOrEqual(1)
    await driver.reset()
    expect((await block.request(defs.VIRTIO_BLK_T_IN, 0, { writable: [512] })).status).toBe(OK)
  })
})

test("options out of range are refused", () => {
  const disk = memoryBackend(512)
  closers.push(() => disk.close())
  for (const options of [
    { serial: "x".repeat(21) },
    { serial: "é" },
    { queues: 0 },
    { queues: 65 },
    { blockSize: 100 },
  ]) {
    expect(() => new BlockDevice(disk, options)).toThrow(RangeError)
  }
  expect(() => memoryBackend(100)).toThrow(expect.objectContaining({ code: "size" }))
})
