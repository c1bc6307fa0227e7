import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import type { Worker } from "node:worker_threads"
import * as block from "../../block/defs.js"
import { BlockDevice } from "../../block/device.js"
import { type MemoryBackend, memoryBackend } from "../../block/memory-backend.js"
import type { BlockDeviceOptions } from "../../block/options.js"
import { requestHeader } from "../../block/testing.js"
import type { DriverBuffer } from "../../testing/driver-queue.js"
import { MockDriver } from "../../testing/mock-driver.js"
import { overVhostUser, type VhostUserPort } from "../over-vhost-user.js"

/** Less than a test has, so that what was waited for is named. */
const PATIENCE_MS = 25_000

/** Threads of this process, by their numbers. */
export const threadIds = () => readdirSync("/proc/self/task")

/** Waits until `condition` holds. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited in vain for ${what}`)
    await setTimeout(2)
  }
}

/** A folder that goes with the test. */
export function temporaryFolder(closers: (() => Promise<void> | void)[]): string {
  const folder = mkdtempSync(join(tmpdir(), "threads-"))
  closers.push(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A disk in memory whose queues threads serve, and a driver of it. */
export class DiskUnderTest implements AsyncDisposable {
  readonly disk: MemoryBackend
  readonly device: BlockDevice
  readonly driver: MockDriver
  /** Its threads, in the order of their first queues. */
  readonly workers: readonly Worker[]
  readonly failures: readonly Error[]

  private constructor(
    disk: MemoryBackend,
    device: BlockDevice,
    driver: MockDriver,
    workers: readonly Worker[],
    failures: readonly Error[],
  ) {
    this.disk = disk
    this.device = device
    this.driver = driver
    this.workers = workers
    this.failures = failures
  }

  static async attach(options: BlockDeviceOptions & { readonly sectors?: number } = {}) {
    const { sectors = 4096, ...rest } = options
    const disk = memoryBackend(sectors * block.SECTOR_SIZE)
    const device = new BlockDevice(disk, { queues: 4, threads: 2, ...rest })
    const workers: Worker[] = []
    const note = (worker: Worker) => workers.push(worker)
    process.on("worker", note)
    const sizes = device.queueSizes.map(() => 64)
    const driver = await MockDriver.attach(device, overVhostUser, { queueSizes: sizes })
    process.off("worker", note)
    const failures: Error[] = []
    const port = driver.port as VhostUserPort
    port.server.on("deviceFailed", error => failures.push(error))
    return new DiskUnderTest(disk, device, driver, workers, failures)
  }

  get port(): VhostUserPort {
    return this.driver.port as VhostUserPort
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.driver[Symbol.asyncDispose]()
    await this.port.server.ended()
    this.disk.close()
  }
}

/** Buffers of one request, used again and again. */
export class RequestSlot {
  readonly #driver: MockDriver
  readonly #header: DriverBuffer
  readonly #data: DriverBuffer
  readonly #status: DriverBuffer

  constructor(driver: MockDriver, bytes: number) {
    this.#driver = driver
    this.#header = driver.readable(requestHeader(0))
    this.#data = driver.writable(bytes)
    this.#status = driver.writable(1)
  }

  /** Makes a request available: a write of `data`, a read without. @returns the chain's id */
  post(queue: number, sector: number, data?: Uint8Array): number {
    const type = data ? block.VIRTIO_BLK_T_OUT : block.VIRTIO_BLK_T_IN
    const { memory } = this.#driver
    memory.write(this.#header.address, requestHeader(type, sector))
    memory.write(this.#status.address, Uint8Array.of(0xee))
    memory.write(this.#data.address, data ?? new Uint8Array(this.#data.length))
    return this.#driver.post(queue, [this.#header, { ...this.#data, writable: !data }, this.#status])
  }

  get status(): number {
    return this.#status.bytes()[0]!
  }

  get data(): Uint8Array {
    return this.#data.bytes()
  }
}
