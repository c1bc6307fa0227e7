import type { DriverBuffer } from "../testing/driver-queue.js"
import { direct, type FrontDoor, MockDriver, type MockDriverOptions } from "../testing/index.js"
import * as defs from "./defs.js"
import { BalloonDevice, type BalloonOptions } from "./device.js"

/** What balloons have page numbers in. */
export const PAGE = 4096
/** A balloon that offers everything. */
export const ALL: BalloonOptions = { deflateOnOom: true, reporting: true, hinting: true }

const drivers: MockDriver[] = []

/** A balloon and its driver; {@link detachAll} ends both. */
export async function attach(
  balloonOptions: BalloonOptions = ALL,
  over: FrontDoor = direct,
  options: MockDriverOptions = {},
): Promise<{ balloon: BalloonDevice; driver: MockDriver }> {
  const balloon = new BalloonDevice(balloonOptions)
  const driver = await MockDriver.attach(balloon, over, options)
  drivers.push(driver)
  return { balloon, driver }
}

/** Ends every driver of {@link attach}. */
export async function detachAll(): Promise<void> {
  for (const driver of drivers.splice(0)) await driver[Symbol.asyncDispose]()
}

/** A buffer of page numbers. */
export function numbers(driver: MockDriver, ...pages: readonly number[]): DriverBuffer {
  return driver.readable(new Uint8Array(Uint32Array.from(pages).buffer))
}

/** A buffer with a command of hinting. */
export function command(driver: MockDriver, id: number): DriverBuffer {
  return numbers(driver, id)
}

/** Pages as a buffer for the device to write to, with their contents as they are. */
export function pages(page: number, count = 1): DriverBuffer {
  return { address: page * PAGE, length: count * PAGE, writable: true, bytes: () => new Uint8Array(0) }
}

/** A field of config space. */
export async function field(driver: MockDriver, offset: number): Promise<number> {
  return Buffer.from(await driver.port.readConfig(offset, 4)).readUInt32LE()
}

/** The bytes of a le32. */
export function le32(value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(value).buffer)
}

/** Fills pages of the low regions, which nothing else lies in. */
export function fill(driver: MockDriver, page: number, count: number): void {
  driver.memory.write(page * PAGE, new Uint8Array(count * PAGE).fill(0xa5))
}

/** Which of the pages hold zeroes only. */
export function zeroPages(driver: MockDriver, page: number, count: number): number[] {
  const bytes = new Uint8Array(PAGE)
  return Array.from({ length: count }, (_, i) => page + i).filter(one => {
    driver.memory.read(one * PAGE, bytes)
    return bytes.every(byte => byte === 0)
  })
}

/** A buffer of the statistics queue: `[tag, value]` entries. */
export function statistics(driver: MockDriver, ...entries: readonly [number, bigint][]): DriverBuffer {
  const view = new DataView(new ArrayBuffer(entries.length * defs.STATISTIC_SIZE))
  entries.forEach(([tag, value], i) => {
    view.setUint16(i * defs.STATISTIC_SIZE, tag, true)
    view.setBigUint64(i * defs.STATISTIC_SIZE + 2, value, true)
  })
  return driver.readable(new Uint8Array(view.buffer))
}
