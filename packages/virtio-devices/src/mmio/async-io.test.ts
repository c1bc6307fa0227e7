import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import { afterEach, describe, expect, test } from "vitest"
import { BlockDevice, openFileBackend } from "../block/index.js"
import { requestHeader } from "../block/testing.js"
import { VIRTIO_F_RING_PACKED } from "../features.js"
import { type DriverBuffer, type MmioPort, MockDriver, overMmio } from "../testing/index.js"
import * as defs from "./defs.js"

const MIB = 2 ** 20
const READ_SIZE = 4 * MIB
const READS = 8
const DISK = 0x11
const DRIVERS_OWN = 0x5a

const closers: (() => void | Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** A disk whose reads are too large to be done at once, so that the thread pool writes into guest memory. */
async function attach(packed: boolean) {
  const folder = mkdtempSync(join(tmpdir(), "mmio-"))
  closers.push(() => rmSync(folder, { recursive: true }))
  const path = join(folder, "disk.img")
  writeFileSync(path, new Uint8Array(READ_SIZE).fill(DISK))
  const backend = openFileBackend(path)
  closers.push(() => backend.close())
  const driver = await MockDriver.attach(new BlockDevice(backend), overMmio, {
    regions: [{ start: 0, size: (READS + 1) * READ_SIZE }],
    heapStart: 0,
    queueSizes: [64],
    packed,
    // Queue reset as well.
    features: offered => (packed ? offered : offered & ~VIRTIO_F_RING_PACKED),
  })
  closers.push(() => driver[Symbol.asyncDispose]())
  return { driver, port: driver.port as MmioPort }
}

function read(driver: MockDriver): DriverBuffer[] {
  const data = Array.from({ length: READS }, () => driver.writable(READ_SIZE))
  for (const buffer of data)
    driver.queue(0).post([driver.readable(requestHeader(0, 0)), buffer, driver.writable(1)])
  driver.port.kick(0)
  return data
}

/** The driver uses the memory for something else, and nobody else does. */
async function expectMine(driver: MockDriver, buffers: readonly DriverBuffer[]): Promise<void> {
  const mine = new Uint8Array(READ_SIZE).fill(DRIVERS_OWN)
  for (const { address } of buffers) driver.memory.write(address, mine)
  for (let i = 0; i < 20; i++) await setTimeout(1)
  for (const buffer of buffers) expect(Buffer.compare(buffer.bytes(), mine)).toBe(0)
}

describe.each([{ packed: false }, { packed: true }])(
  "I/O in the thread pool, packed: $packed",
  ({ packed }) => {
    test("Q21: a device reset ends when it has; nothing is written afterwards", async () => {
      const { driver, port } = await attach(packed)
      const buffers = read(driver)
      const done = port.write32(defs.VIRTIO_MMIO_STATUS, 0)
      expect(done).toBeInstanceOf(Promise)
      expect(port.read32(defs.VIRTIO_MMIO_STATUS)).not.toBe(0)
      await done
      expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(0)
      await expectMine(driver, buffers)
      expect(driver.interrupts(0)).toBe(0)
    })

    test("Q21: so does the reset of a queue, which comes back to work", async () => {
      const { driver, port } = await attach(packed)
      const buffers = read(driver)
      port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, 0)
      const done = port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, 1)
      expect(done).toBeInstanceOf(Promise)
      await done
      expect(port.read32(defs.VIRTIO_MMIO_QUEUE_READY)).toBe(0)
      await expectMine(driver, buffers)
      await driver.setUpQueue(0, driver.placeQueue(16))
      const again = driver.writable(512, buffers[0]!.address)
      const used = await driver.send(0, [driver.readable(requestHeader(0, 0)), again, driver.writable(1)])
      expect([used.length, again.bytes()[0]]).toEqual([513, DISK])
    })

    test("Q21: the end of the machine waits too", async () => {
      const { driver, port } = await attach(packed)
      const buffers = read(driver)
      // However fast the threads are, this one has heard of nothing yet.
      expect(port.inFlight()).toBeGreaterThan(0)
      await port.transport.close()
      expect(port.inFlight()).toBe(0)
      await expectMine(driver, buffers)
    })
  },
)
