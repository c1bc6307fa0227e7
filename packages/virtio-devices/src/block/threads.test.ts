import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, describe, expect, test } from "vitest"
import { MmioTransport } from "../mmio/transport.js"
import { direct } from "../testing/direct.js"
import { MockDriver } from "../testing/mock-driver.js"
import { concatBackend } from "./concat-backend.js"
import { BlockDevice } from "./device.js"
import { memoryBackend } from "./memory-backend.js"
import { createQcow2 } from "./qcow2/create.js"
import { openQcow2Backend } from "./qcow2/qcow2-backend.js"

const closers: (() => void)[] = []
afterEach(() => {
  for (const close of closers.splice(0).reverse()) close()
})

function kept<T extends { close(): void }>(thing: T): T {
  closers.push(() => thing.close())
  return thing
}

const disk = () => kept(memoryBackend(8 * 512))
const unsupported = expect.objectContaining({ code: "unsupported" })

describe("threads of a disk", () => {
  test("none are the default", () => {
    expect(new BlockDevice(disk(), { queues: 4 }).threads).toBeUndefined()
    expect(new BlockDevice(disk(), { queues: 4, threads: 0 }).threads).toBeUndefined()
    expect(new BlockDevice(disk(), { queues: 4, threads: 3 }).threads?.count).toBe(3)
  })

  test.each([-1, 1.5, 5, Number.NaN])("%d for four queues are refused", threads => {
    expect(() => new BlockDevice(disk(), { queues: 4, threads })).toThrow(RangeError)
  })

  test("a rate limit is refused: it would hold for each thread alone", () => {
    const rateLimit = { bytesPerSecond: 1e6 }
    expect(() => new BlockDevice(disk(), { queues: 2, threads: 2, rateLimit })).toThrow(RangeError)
  })

  test("a disk that is more than one raw file is refused", async () => {
    const folder = mkdtempSync(join(tmpdir(), "threads-"))
    closers.push(() => rmSync(folder, { recursive: true }))
    const path = join(folder, "disk.qcow2")
    await createQcow2(path, { size: 1 << 20 })
    const images = [kept(await openQcow2Backend(path)), kept(concatBackend([{ source: disk(), size: 4096 }]))]
    for (const image of images) expect(() => new BlockDevice(image, { threads: 1 })).toThrow(unsupported)
  })

  test("without a transport that starts them the device is not served at all", async () => {
    const device = new BlockDevice(disk(), { threads: 1 })
    const { memory } = await attached(MockDriver.attach(new BlockDevice(disk()), direct))
    expect(() => new MmioTransport(device, { memory, interrupt: () => undefined })).toThrow(TypeError)
    const driver = await attached(MockDriver.attach(device, direct))
    expect(await driver.port.needsReset()).toBe(true)
  })
})

async function attached(attaching: Promise<MockDriver>): Promise<MockDriver> {
  const driver = await attaching
  closers.push(() => void driver.port.close())
  return driver
}
