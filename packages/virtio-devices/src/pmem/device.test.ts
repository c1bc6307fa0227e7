import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { deviceConformance, direct, MockDriver, overMmio, overVhostUser } from "../testing/index.js"
import * as defs from "./defs.js"
import { PmemDevice } from "./device.js"

const PAGE = 4096
const FLUSH = Uint8Array.of(0, 0, 0, 0)
let folder: string
const devices: PmemDevice[] = []
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "tsv-pmem-"))
})
afterEach(() => {
  for (const device of devices.splice(0)) device.close()
  rmSync(folder, { recursive: true })
})

function part(name: string, pages: number) {
  const path = join(folder, name)
  writeFileSync(path, new Uint8Array(pages * PAGE).fill(0x5a))
  return { path, size: pages * PAGE }
}

function makeDevice(readOnly = true): PmemDevice {
  const device = new PmemDevice([part("a", 3), part("b", 5)], { readOnly })
  devices.push(device)
  return device
}

async function flush(driver: MockDriver, request: Uint8Array = FLUSH): Promise<number> {
  const response = driver.writable(defs.RESPONSE_SIZE)
  expect((await driver.send(0, [driver.readable(request), response])).length).toBe(defs.RESPONSE_SIZE)
  return Buffer.from(response.bytes()).readUInt32LE()
}

describe("what the guest sees", () => {
  test("files end to end, and zeroes up to the next 2 MiB", () => {
    const { size, alignment, parts } = makeDevice(false).deviceMemory
    expect({ size, alignment }).toEqual({ size: defs.PMEM_ALIGNMENT, alignment: defs.PMEM_ALIGNMENT })
    expect(parts.map(one => ({ pages: one.size / PAGE, readOnly: one.readOnly }))).toEqual([
      { pages: 3, readOnly: false },
      { pages: 5, readOnly: false },
      { pages: 512 - 8, readOnly: true },
    ])
    expect(parts.every(({ hostAddress }) => hostAddress % 4096n === 0n)).toBe(true)
  })

  test("where it was placed, in config space (5.19.4)", () => {
    const device = makeDevice()
    device.deviceMemory.placedAt(0x1_0020_0000)
    const config = Buffer.alloc(24)
    device.readConfig(0, config)
    expect(config.readBigUInt64LE(0)).toBe(0x1_0020_0000n)
    expect(config.readBigUInt64LE(8)).toBe(BigInt(defs.PMEM_ALIGNMENT))
    expect(config.readBigUInt64LE(16)).toBe(0n)
  })

  test("files that do not fit are refused, and leave no descriptor", () => {
    const { path, size } = part("short", 2)
    for (const [files, code] of [
      [[], "part-size"],
      [[{ path, size: 100 }], "part-size"],
      [[{ path, size: 0 }], "part-size"],
      [[{ path, size: size + PAGE }], "file"],
      [[{ path: folder, size: PAGE }], "file"],
      [[{ path: join(folder, "none"), size: PAGE }], "file"],
    ] as const)
      expect(() => new PmemDevice(files)).toThrow(expect.objectContaining({ code }))
  })
})

describe.each([direct, overMmio])("flush over $name", over => {
  test.each([true, false])("is answered, read-only: %s", async readOnly => {
    const device = makeDevice(readOnly)
    await using driver = await MockDriver.attach(device, over)
    expect(await flush(driver)).toBe(defs.RET_OK)
    expect(device.counters).toEqual({ flushes: 1, failures: 0 })
  })

  test("hostile: what is no flush fails, and nothing breaks", async () => {
    const device = makeDevice()
    await using driver = await MockDriver.attach(device, over)
    for (const wrong of [[], [0], [1, 0, 0, 0], [0, 0, 0, 0, 0], [255, 255, 255, 255]])
      expect(await flush(driver, Uint8Array.from(wrong))).toBe(defs.RET_FAILED)
    expect(await flush(driver)).toBe(defs.RET_OK)
    expect(device.counters).toEqual({ flushes: 1, failures: 5 })
  })

  test("hostile: a flood of flushes is answered, each once", async () => {
    const device = makeDevice(false)
    await using driver = await MockDriver.attach(device, over, { queueSizes: [64] })
    const posted = 30
    for (let i = 0; i < posted; i++)
      driver.queue(0).post([driver.readable(FLUSH), driver.writable(defs.RESPONSE_SIZE)])
    driver.port.kick(0)
    await driver.until(() => device.counters.flushes === posted, "all answers")
    for (let i = 0; i < posted; i++) expect(driver.queue(0).poll()?.length).toBe(defs.RESPONSE_SIZE)
    expect(driver.queue(0).poll()).toBeUndefined()
  })
})

test("nothing is written to read-only files", async () => {
  const device = makeDevice(true)
  await using driver = await MockDriver.attach(device, direct)
  await flush(driver)
  expect(readFileSync(join(folder, "a")).every(byte => byte === 0x5a)).toBe(true)
})

describe.each([direct, overVhostUser, overMmio])("persistent memory over $name", over => {
  const works = async (driver: MockDriver) => {
    expect(await flush(driver)).toBe(defs.RET_OK)
  }
  test.each(deviceConformance({ makeDevice: () => makeDevice(), over, works }))("$name", ({ run }) => run())
})
