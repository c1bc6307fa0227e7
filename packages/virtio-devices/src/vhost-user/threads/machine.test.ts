import { join } from "node:path"
import type { Worker } from "node:worker_threads"
import { afterEach, beforeEach, expect, test } from "vitest"
import * as block from "../../block/defs.js"
import { BlockDevice } from "../../block/device.js"
import { memoryBackend } from "../../block/memory-backend.js"
import { BlockDriver } from "../../block/testing.js"
import { MockDriver } from "../../testing/mock-driver.js"
import { overExternal } from "../external-port.js"
import { VhostUserDevice, type VhostUserDeviceOptions } from "../frontend-device.js"
import { serveVhostUser } from "../server.js"
import { temporaryFolder, until } from "./disk-under-test.js"

const SECTORS = 2048
const closers: (() => Promise<void> | void)[] = []
const workers: Worker[] = []
const note = (worker: Worker) => workers.push(worker)
beforeEach(() => void process.on("worker", note))
afterEach(async () => {
  process.off("worker", note)
  workers.length = 0
  for (const close of closers.splice(0).reverse()) await close()
})

/** A threaded disk whose sectors are filled with their numbers, in a machine of the same process. */
async function attach(options: Partial<VhostUserDeviceOptions> = {}) {
  const disk = memoryBackend(SECTORS * block.SECTOR_SIZE)
  disk.bytes.forEach((_, i) => {
    disk.bytes[i] = (i >> 9) & 0xff
  })
  const socketPath = join(temporaryFolder(closers), "socket")
  const server = serveVhostUser(new BlockDevice(disk, { queues: 2, threads: 2 }), { socketPath })
  const device = await VhostUserDevice.connect({ kind: "blk", socketPath, ...options })
  const driver = await MockDriver.attach(device, overExternal, { queueSizes: [64, 64] })
  closers.push(() => disk.close())
  closers.push(() => server.ended())
  closers.push(() => server.close())
  closers.push(() => device.close())
  closers.push(() => driver[Symbol.asyncDispose]())
  return { disk, device, driver, server }
}

async function read(driver: MockDriver, sector: number, queue: number): Promise<number | undefined> {
  const request = new BlockDriver(driver, queue).request(block.VIRTIO_BLK_T_IN, sector, { writable: [512] })
  const { status, data } = await request
  return status === block.VIRTIO_BLK_S_OK ? data[0] : undefined
}

test("a machine has a threaded disk by way of a front end in its own process", async () => {
  const { disk, driver } = await attach()
  for (const queue of [0, 1]) {
    expect(await read(driver, 3, queue)).toBe(3)
    const data = [new Uint8Array(512).fill(0xa5)]
    const written = await new BlockDriver(driver, queue).request(block.VIRTIO_BLK_T_OUT, 100 + queue, {
      data,
    })
    expect(written.status).toBe(block.VIRTIO_BLK_S_OK)
    expect(disk.bytes[(100 + queue) * 512]).toBe(0xa5)
  }
  await driver.reset()
  expect(await read(driver, 4, 1)).toBe(4)
})

test("H8: threads that die under load, ten times: every request is answered once, and rightly", {
  timeout: 120_000,
}, async () => {
  const { driver, device, server } = await attach()
  const failures: Error[] = []
  server.on("deviceFailed", error => failures.push(error))
  let done = 0
  let ended = false
  const reader = async (queue: number) => {
    for (let i = 0; !ended; i = (i + 1) % 200) {
      expect(await read(driver, i, queue)).toBe(i)
      done++
    }
  }
  const readers = [reader(0), reader(1)]
  for (let round = 0; round < 10; round++) {
    const before = done
    await until(() => done > before + 20, "answers")
    const [worker] = workers.splice(0).slice(-2 + (round % 2))
    await worker!.terminate()
    await until(() => device.connected && workers.length >= 2, "threads again")
  }
  const before = done
  await until(() => done > before + 20, "answers")
  ended = true
  await Promise.all(readers)
  expect(failures).toHaveLength(10)
})

test("without reconnect a thread that dies takes the device to DEVICE_NEEDS_RESET", async () => {
  const { driver } = await attach({ reconnect: false })
  expect(await read(driver, 1, 0)).toBe(1)
  await workers[0]!.terminate()
  await driver.untilBroken()
})
