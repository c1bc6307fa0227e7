import { expect, onTestFinished, test } from "vitest"
import { VIRTIO_F_EVENT_IDX } from "../features.js"
import { direct, MockDriver } from "../testing/index.js"
import { VIRTIO_BLK_T_IN } from "./defs.js"
import { BlockDevice } from "./device.js"
import { memoryBackend } from "./memory-backend.js"
import { REQUEST_QUEUE, requestHeader } from "./testing.js"

const DISK_SIZE = 1024 * 1024

test("a driver that runs beside the device hears of the first reads while the next are done", async () => {
  const disk = memoryBackend(DISK_SIZE)
  onTestFinished(() => disk.close())
  // Without EVENT_IDX each time that completions are shown is an interrupt.
  const features = (offered: bigint) => offered & ~VIRTIO_F_EVENT_IDX
  const regions = [{ start: 0, size: 4 * DISK_SIZE }]
  const options = { features, queueSizes: [64], regions, heapStart: 16_384 }
  await using driver = await MockDriver.attach(new BlockDevice(disk), direct, options)

  /** @returns interrupts that so many reads of `size` bytes, made available together, come to */
  async function read(count: number, size: number): Promise<number> {
    const before = driver.interrupts(REQUEST_QUEUE)
    for (let i = 0; i < count; i++) {
      const parts = [driver.readable(requestHeader(VIRTIO_BLK_T_IN)), driver.writable(size + 1)]
      driver.queue(REQUEST_QUEUE).post(parts)
    }
    driver.port.kick(REQUEST_QUEUE)
    for (let i = 0; i < count; i++) expect((await driver.nextUsed(REQUEST_QUEUE)).length).toBe(size + 1)
    await driver.port.settle()
    return driver.interrupts(REQUEST_QUEUE) - before
  }

  expect(await read(28, 512)).toBe(1)
  for (let i = 0; i < 8; i++) await read(1, 512)
  expect(await read(28, 512)).toBe(3)
  expect(await read(3, DISK_SIZE / 2)).toBe(2)
})
