import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import * as block from "../block/defs.js"
import { BlockDevice } from "../block/device.js"
import { memoryBackend } from "../block/memory-backend.js"
import { BlockDriver, requestHeader } from "../block/testing.js"
import type { DeviceContext } from "../device.js"
import { deviceConformance } from "../testing/conformance.js"
import { MockDriver } from "../testing/mock-driver.js"
import { overExternal } from "./external-port.js"
import { VhostUserDevice, type VhostUserDeviceOptions } from "./frontend-device.js"
import { settledFds } from "./raw-peer.js"
import { serveVhostUser, type VhostUserServer } from "./server.js"

const SECTORS = 2048
const closers: (() => Promise<void> | void)[] = []
let socketPath: string

beforeEach(() => {
  const folder = mkdtempSync(join(tmpdir(), "front-"))
  socketPath = join(folder, "socket")
  closers.push(() => rmSync(folder, { recursive: true }))
})
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

function makeDisk() {
  const disk = memoryBackend(SECTORS * 512)
  closers.push(() => disk.close())
  disk.bytes.forEach((_, i) => {
    disk.bytes[i] = (i >> 9) & 0xff
  })
  return disk
}

function serve(disk: ReturnType<typeof memoryBackend>): VhostUserServer {
  const server = serveVhostUser(new BlockDevice(disk, { queues: 2 }), { socketPath })
  closers.push(() => server.close())
  return server
}

async function connect(options: Partial<VhostUserDeviceOptions> = {}): Promise<VhostUserDevice> {
  const device = await VhostUserDevice.connect({ kind: "blk", socketPath, ...options })
  closers.push(() => device.close())
  return device
}

async function attach(device: VhostUserDevice): Promise<MockDriver> {
  const driver = await MockDriver.attach(device, overExternal, { queueSizes: [64, 64] })
  closers.push(() => driver[Symbol.asyncDispose]())
  return driver
}

const read = async (driver: MockDriver, sector: number, queue = 0) => {
  const { status, data } = await new BlockDriver(driver, queue).request(block.VIRTIO_BLK_T_IN, sector, {
    writable: [512],
  })
  return status === block.VIRTIO_BLK_S_OK ? data[0] : undefined
}

function postRead(driver: MockDriver, sector: number) {
  const data = driver.writable(512)
  const header = driver.readable(requestHeader(block.VIRTIO_BLK_T_IN, sector))
  return [driver.post(0, [header, data, driver.writable(1)]), { sector, data }] as const
}

/** A disk that says it has grown. */
class GrowingDisk extends BlockDevice {
  #ctx: DeviceContext | undefined
  #sectors: number | undefined

  override activate(ctx: DeviceContext): void {
    this.#ctx = ctx
    super.activate(ctx)
  }

  override readConfig(offset: number, into: Uint8Array): void {
    super.readConfig(offset, into)
    if (this.#sectors !== undefined && offset === 0)
      new DataView(into.buffer, into.byteOffset).setUint32(0, this.#sectors, true)
  }

  grow(sectors: number): void {
    this.#sectors = sectors
    this.#ctx?.configChanged()
  }
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 2500 && !condition(); i++) await setTimeout(2)
  expect(condition()).toBe(true)
}

describe("a disk that another process serves, in a machine", () => {
  test("is read and written through every ring, with what the back end says of it", async () => {
    const disk = makeDisk()
    serve(disk)
    const device = await connect()
    const driver = await attach(device)
    expect(device.queueSizes).toHaveLength(2)
    expect(new DataView((await driver.port.readConfig(0, 8)).buffer).getUint32(0, true)).toBe(SECTORS)
    for (const queue of [0, 1]) {
      expect(await read(driver, 3, queue)).toBe(3)
      const sector = 100 + queue
      const written = await new BlockDriver(driver, queue).request(block.VIRTIO_BLK_T_OUT, sector, {
        data: [new Uint8Array(512).fill(0xa5)],
      })
      expect(written.status).toBe(block.VIRTIO_BLK_S_OK)
      expect(disk.bytes[sector * 512]).toBe(0xa5)
    }
  })

  test("is reset and used again, any number of times", async () => {
    serve(makeDisk())
    const driver = await attach(await connect())
    for (let i = 0; i < 5; i++) {
      expect(await read(driver, i)).toBe(i)
      await driver.reset()
    }
  })

  test("tells the driver of another size", async () => {
    const growing = new GrowingDisk(makeDisk())
    const server = serveVhostUser(growing, { socketPath })
    closers.push(() => server.close())
    const driver = await attach(await connect())
    expect(await read(driver, 1)).toBe(1)
    growing.grow(2 * SECTORS)
    await until(() => driver.configInterrupts > 0)
    expect(new DataView((await driver.port.readConfig(0, 8)).buffer).getUint32(0, true)).toBe(2 * SECTORS)
  })

  test("leaves no fd behind", async () => {
    const before = await settledFds()
    serve(makeDisk())
    const driver = await attach(await connect())
    expect(await read(driver, 1)).toBe(1)
    for (const close of closers.splice(0).reverse()) await close()
    expect(await settledFds()).toBe(before)
  })
})

describe("H8: a back end that dies and comes back", () => {
  test("between requests: the next one waits and is served", async () => {
    const disk = makeDisk()
    const first = serve(disk)
    const told: string[] = []
    const device = await connect({ onLost: () => told.push("lost"), onBack: () => told.push("back") })
    const driver = await attach(device)
    for (let i = 0; i < 5; i++) expect(await read(driver, i)).toBe(i)
    first.close()
    await until(() => !device.connected)
    const waiting = read(driver, 77)
    await setTimeout(50)
    serve(disk)
    expect(await waiting).toBe(77)
    expect(told).toEqual(["lost", "back"])
    for (let i = 0; i < 70; i++) expect(await read(driver, i, i % 2)).toBe(i)
  })

  test("under load, ten times: every request is answered once, and rightly", async () => {
    const disk = makeDisk()
    let server = serve(disk)
    const device = await connect()
    const driver = await attach(device)
    let done = 0
    let ended = false
    const worker = async (queue: number) => {
      for (let i = 0; !ended; i = (i + 1) % 200) {
        expect(await read(driver, i, queue)).toBe(i)
        done++
      }
    }
    const workers = [worker(0), worker(1)]
    for (let round = 0; round < 10; round++) {
      const before = done
      await until(() => done > before + 20)
      server.close()
      await setTimeout(5)
      server = serve(disk)
    }
    const before = done
    await until(() => done > before + 20)
    ended = true
    await Promise.all(workers)
  })

  test("requests that it had taken are done by the one after it, from the log", async () => {
    const disk = makeDisk()
    // Takes requests and never answers: the disk's content is on its way.
    const stuck = makeDisk()
    let taken = 0
    stuck.prepare = () => {
      taken++
      return new Promise(() => undefined)
    }
    const first = serveVhostUser(new BlockDevice(stuck, { queues: 2 }), { socketPath })
    const device = await connect()
    const driver = await attach(device)
    const sent = new Map([5, 6, 7].map(sector => postRead(driver, sector)))
    await until(() => taken === sent.size)
    first.close()
    await until(() => !device.connected)
    serve(disk)
    const answered = new Set<number>()
    for (const _ of sent) {
      const { id } = await driver.nextUsed(0)
      const { sector, data } = sent.get(id)!
      expect(data.bytes()[0]).toBe(sector)
      answered.add(sector)
    }
    expect([...answered].sort()).toEqual([5, 6, 7])
    expect(await read(driver, 8)).toBe(8)
  })

  test("a reset while it is away ends, and the driver begins anew when it is back", async () => {
    const disk = makeDisk()
    const first = serve(disk)
    const device = await connect()
    const driver = await attach(device)
    first.close()
    await until(() => !device.connected)
    await driver.port.reset()
    serve(disk)
    await until(() => device.connected)
    await driver.initialise()
    expect(await read(driver, 9)).toBe(9)
  })

  test("with less than before it is refused, and the device needs a reset", async () => {
    const first = serve(makeDisk())
    const device = await connect()
    const driver = await attach(device)
    first.close()
    await until(() => !device.connected)
    const one = serveVhostUser(new BlockDevice(makeDisk(), { queues: 1 }), { socketPath })
    closers.push(() => one.close())
    await driver.untilBroken()
    expect(device.connected).toBe(false)
  })

  test("without reconnect its end is the device's", async () => {
    const first = serve(makeDisk())
    const device = await connect({ reconnect: false })
    const driver = await attach(device)
    first.close()
    await driver.untilBroken()
  })
})

test("Q21: requests in flight at a reset are waited for, and nothing is written after it", async () => {
  const disk = makeDisk()
  let release: (() => void) | undefined
  disk.prepare = () =>
    new Promise(resolve => {
      release = resolve
    })
  serve(disk)
  const driver = await attach(await connect())
  postRead(driver, 4)
  driver.port.kick(0)
  // A reset that came first would find nothing in flight.
  await until(() => release !== undefined)
  let reset = false
  const resetting = driver.port.reset().then(() => {
    reset = true
  })
  await setTimeout(20)
  expect(reset).toBe(false)
  release?.()
  await resetting
})

/** The transport's part of the conformance body; what becomes of broken chains is the back end's business. */
const TRANSPORT_CASES =
  /^T1|^works over split|^works without|^config space|^works again after each of many resets \(|^Q19|^Q20/

describe("conformance of the machine's side", () => {
  const cases = deviceConformance({
    makeDevice: async () => {
      serve(makeDisk())
      return connect()
    },
    over: overExternal,
    works: async driver => expect(await read(driver, 2)).toBe(2),
  })
  test.each(cases.filter(({ name }) => TRANSPORT_CASES.test(name)))("$name", ({ run }) => run())
})
