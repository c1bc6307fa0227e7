import { truncateSync, writeFileSync } from "node:fs"
import { constants } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import type { Worker } from "node:worker_threads"
import { afterEach, describe, expect, test } from "vitest"
import * as block from "../../block/defs.js"
import { BlockDevice } from "../../block/device.js"
import { openFileBackend } from "../../block/file-backend.js"
import { memoryBackend } from "../../block/memory-backend.js"
import { BlockDriver, requestHeader } from "../../block/testing.js"
import { deviceConformance } from "../../testing/conformance.js"
import { MockDriver } from "../../testing/mock-driver.js"
import { randomSource } from "../../testing/random-ring.js"
import { overVhostUser, type VhostUserPort } from "../over-vhost-user.js"
import { settledFds } from "../raw-peer.js"
import { DiskUnderTest, RequestSlot, temporaryFolder, threadIds, until } from "./disk-under-test.js"

const QUEUES = [0, 1, 2, 3]
const closers: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

async function attach(options: Parameters<typeof DiskUnderTest.attach>[0] = {}): Promise<DiskUnderTest> {
  const disk = await DiskUnderTest.attach(options)
  closers.push(() => disk[Symbol.asyncDispose]())
  return disk
}

/** The same over a file, which is not in memory. */
async function attachFile(content: Uint8Array) {
  const path = join(temporaryFolder(closers), "disk.img")
  writeFileSync(path, content)
  const backend = openFileBackend(path)
  closers.push(() => backend.close())
  const device = new BlockDevice(backend, { queues: 4, threads: 2 })
  const driver = await MockDriver.attach(device, overVhostUser, { queueSizes: [64, 64, 64, 64] })
  const port = driver.port as VhostUserPort
  closers.push(() => port.server.ended())
  closers.push(() => driver[Symbol.asyncDispose]())
  return { path, device, driver, port }
}

/** Reads a sector. @returns its first byte, or undefined when that failed */
async function read({ driver }: DiskUnderTest, queue: number, sector: number): Promise<number | undefined> {
  const { status, data } = await new BlockDriver(driver, queue).request(block.VIRTIO_BLK_T_IN, sector, {
    writable: [block.SECTOR_SIZE],
  })
  return status === block.VIRTIO_BLK_S_OK ? data[0] : undefined
}

describe("a threaded disk conforms over vhost-user", () => {
  const backends = new Map<object, ReturnType<typeof memoryBackend>>()
  const cases = deviceConformance({
    makeDevice: () => {
      const backend = memoryBackend(64 * block.SECTOR_SIZE)
      const device = new BlockDevice(backend, { queues: 2, threads: 2 })
      backends.set(device, backend)
      return device
    },
    dispose: device => backends.get(device)?.close(),
    over: overVhostUser,
    requestQueues: [0, 1],
    works: async driver => {
      for (const queue of [0, 1]) {
        const request = new BlockDriver(driver, queue).request(block.VIRTIO_BLK_T_IN, 1, { writable: [512] })
        expect((await request).status).toBe(block.VIRTIO_BLK_S_OK)
      }
    },
  })
  test.each(cases)("$name", ({ run }) => run())
})

describe("four queues in two threads", () => {
  test("random I/O on all of them at a time is right, and counted", async () => {
    const disk = await attach()
    expect(disk.workers).toHaveLength(2)
    const model = new Uint8Array(disk.disk.size)
    const results = await Promise.all(QUEUES.map(queue => hammer(disk, model, queue, 60)))
    expect(Buffer.compare(disk.disk.bytes, model)).toBe(0)
    const { reads, writes, failed, bytesRead } = disk.device.counters
    expect({ reads, writes, failed }).toEqual({
      reads: sum(results.map(result => result.reads)),
      writes: sum(results.map(result => result.writes)),
      failed: 0,
    })
    expect(bytesRead).toBe(reads * 1024)
    expect(disk.port.server.counters.interrupts).toBeGreaterThan(0)
  })

  test("a ring is stopped and started under load: it goes on where it was, and nothing is lost", async () => {
    const disk = await attach()
    const model = new Uint8Array(disk.disk.size)
    const load = Promise.all(QUEUES.map(queue => hammer(disk, model, queue, 40)))
    for (let i = 0; i < 20; i++) {
      const queue = i % QUEUES.length
      await disk.port.frontend.setEnabled(queue, false)
      await setTimeout(1)
      await disk.port.frontend.setEnabled(queue, true)
    }
    await load
    expect(Buffer.compare(disk.disk.bytes, model)).toBe(0)
    for (const queue of QUEUES) {
      const base = await disk.port.frontend.stopRing(queue)
      expect(base).toBe(disk.driver.memory.loadU16(disk.driver.queue(queue).config.device + 2))
    }
  })

  test("a reset with I/O under way is done when none is, and the driver has its memory back", async () => {
    const { driver } = await attachFile(new Uint8Array(16 << 20))
    const region = driver.memory.regions.at(-1)!
    for (let round = 0; round < 5; round++) {
      // Over 1 MiB: not done at once but elsewhere. All into the same place, which is the heap's end.
      const data = driver.writable((1 << 20) + 512, region.start + (2 << 20))
      for (const queue of QUEUES) {
        for (let i = 0; i < 4; i++) {
          const header = driver.readable(requestHeader(block.VIRTIO_BLK_T_IN, i * 4096 + queue))
          driver.post(queue, [header, data, driver.writable(1)])
        }
      }
      await driver.port.reset()
      region.bytes.fill(0x5a)
      await setTimeout(20)
      expect(region.bytes.every(byte => byte === 0x5a)).toBe(true)
      await driver.initialise()
      for (const queue of QUEUES) {
        const request = new BlockDriver(driver, queue).request(block.VIRTIO_BLK_T_IN, 3, { writable: [512] })
        expect((await request).status).toBe(block.VIRTIO_BLK_S_OK)
      }
    }
  })

  test("a change of the capacity reaches every thread before the driver hears of it", async () => {
    const { path, device, driver, port } = await attachFile(new Uint8Array(8 * block.SECTOR_SIZE))
    const reads = async (queue: number, sector: number) =>
      (await new BlockDriver(driver, queue).request(block.VIRTIO_BLK_T_IN, sector, { writable: [512] }))
        .status
    for (const queue of QUEUES) expect(await reads(queue, 8)).toBe(block.VIRTIO_BLK_S_IOERR)
    truncateSync(path, 16 * block.SECTOR_SIZE)
    device.updateCapacity()
    await driver.until(() => driver.configInterrupts === 1, "a configuration interrupt")
    for (const queue of QUEUES) expect(await reads(queue, 8)).toBe(block.VIRTIO_BLK_S_OK)
    expect(port.server.counters.configInterrupts).toBe(1)
  })

  test("a write that the host cannot do is told of by the device", async () => {
    const errors: number[] = []
    const disk = memoryBackend(8 * block.SECTOR_SIZE)
    closers.push(() => disk.close())
    // Every write goes to a file that is open for reading.
    const name = join(temporaryFolder(closers), "disk.img")
    writeFileSync(name, new Uint8Array(8 * block.SECTOR_SIZE))
    const readOnly = openFileBackend(name, { readOnly: true })
    closers.push(() => readOnly.close())
    const shareable = { ...readOnly.shareable!, readOnly: false }
    const device = new BlockDevice({ ...disk, shareable }, { threads: 1, onWriteError: e => errors.push(e) })
    const driver = await MockDriver.attach(device, overVhostUser)
    closers.push(() => (driver.port as VhostUserPort).server.ended())
    closers.push(() => driver[Symbol.asyncDispose]())
    const data = [new Uint8Array(block.SECTOR_SIZE)]
    const { status } = await new BlockDriver(driver).request(block.VIRTIO_BLK_T_OUT, 0, { data })
    expect(status).toBe(block.VIRTIO_BLK_S_IOERR)
    expect(errors).toEqual([constants.errno.EBADF])
  })
})

describe("when things go wrong", () => {
  test("a broken chain in one thread stops the whole device, and no other, until it is reset", async () => {
    const [disk, other] = [await attach(), await attach()]
    const { driver } = disk
    // A head that is no descriptor.
    driver.queue(3).offerRaw(999)
    driver.port.kick(3)
    await driver.untilBroken()
    expect(disk.failures).toHaveLength(1)
    expect(disk.failures[0]).toMatchObject({ name: "QueueError" })
    driver.post(0, [driver.writable(1)])
    driver.port.kick(0)
    await setTimeout(20)
    expect(driver.queue(0).poll()).toBeUndefined()
    expect(await read(other, 3, 1)).toBe(0)
    expect(disk.port.server.counters.guestFaults).toBe(1)
    await driver.reset()
    expect(await driver.port.needsReset()).toBe(false)
    for (const queue of QUEUES) expect(await read(disk, queue, 1)).toBe(0)
  })

  test.each([
    ["an exception", (worker: Worker) => worker.postMessage(null)],
    ["being ended", (worker: Worker) => void worker.terminate()],
  ])(
    "a thread that dies of %s: the device has failed, says why, and the next session works",
    async (_, kill) => {
      const disk = await attach()
      expect(await read(disk, 1, 1)).toBe(0)
      const ending = new Promise(resolve => disk.port.server.once("disconnected", resolve))
      kill(disk.workers[1]!)
      const ended = await ending
      expect(ended).toMatchObject({ code: "internal" })
      expect(disk.failures).toEqual([ended])
      expect(disk.failures[0]!.message).toMatch(/thread that serves the rings ended/)
      const again = await MockDriver.attach(disk.device, overVhostUser, { queueSizes: [16, 16, 16, 16] })
      closers.push(() => (again.port as VhostUserPort).server.ended())
      closers.push(() => again[Symbol.asyncDispose]())
      const request = new BlockDriver(again, 1).request(block.VIRTIO_BLK_T_IN, 1, { writable: [512] })
      expect((await request).status).toBe(block.VIRTIO_BLK_S_OK)
    },
  )

  test("nothing is left after a session: no thread and no fd, whatever state it was in", async () => {
    // What threads need once in a process, a pool of libuv for one, is there after the first.
    await (await DiskUnderTest.attach())[Symbol.asyncDispose]()
    // One that was waited for may be listed a moment longer: all are told apart by their numbers.
    const [fds, threads] = [await settledFds(), new Set(threadIds())]
    const isNew = (id: string) => !threads.has(id)
    for (const end of [
      async () => undefined,
      async (disk: DiskUnderTest) => void (await disk.workers[0]!.terminate()),
      async (disk: DiskUnderTest) =>
        void hammer(disk, new Uint8Array(disk.disk.size), 1, 1000).catch(() => undefined),
      async (disk: DiskUnderTest) => disk.port.frontend.close(),
    ]) {
      const disk = await DiskUnderTest.attach()
      expect(threadIds().some(isNew)).toBe(true)
      await end(disk)
      await disk[Symbol.asyncDispose]()
      await until(() => !threadIds().some(isNew), "the end of all threads")
      expect(await settledFds()).toBe(fds)
    }
  })
})

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0)

/** Batches of requests for sectors of one queue alone, held against `model`. */
async function hammer({ driver }: DiskUnderTest, model: Uint8Array, queue: number, rounds: number) {
  const random = randomSource(queue + 1)
  const slots = Array.from({ length: 16 }, () => new RequestSlot(driver, 1024))
  const done = { reads: 0, writes: 0 }
  for (let round = 0; round < rounds; round++) {
    const batch = new Map<number, () => void>()
    const pairs = pick(random, slots.length, model.length / 4096)
    for (const [i, pair] of pairs.entries()) {
      const sector = (pair * 4 + queue) * 2
      const at = sector * block.SECTOR_SIZE
      const slot = slots[i]!
      const data = random(2) === 0 ? undefined : new Uint8Array(1024).fill(random(256))
      const id = slot.post(queue, sector, data)
      batch.set(id, () => {
        expect(slot.status).toBe(block.VIRTIO_BLK_S_OK)
        if (data) model.set(data, at)
        else expect(Buffer.compare(slot.data, model.subarray(at, at + 1024))).toBe(0)
      })
      if (data) done.writes++
      else done.reads++
    }
    while (batch.size > 0) {
      const { id } = await driver.nextUsed(queue)
      batch.get(id)!()
      batch.delete(id)
    }
  }
  return done
}

/** Different numbers below `limit`: requests of a batch are in no order. */
function pick(random: (below: number) => number, count: number, limit: number): number[] {
  const picked = new Set<number>()
  while (picked.size < count) picked.add(random(limit))
  return [...picked]
}
