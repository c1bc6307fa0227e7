import type { DeviceContext, VirtioDevice } from "../device.js"
import { type DirectPort, direct, MockDriver, type MockDriverOptions } from "../testing/index.js"

/** A device whose behaviour a test fills in. */
export class TestDevice implements VirtioDevice {
  readonly type = 0
  readonly queueSizes = [64, 64]
  readonly features = 0n
  ctx: DeviceContext | undefined
  readonly log: string[] = []
  onNotify: (index: number, ctx: DeviceContext) => void = () => undefined

  activate(ctx: DeviceContext): void {
    this.log.push("activate")
    this.ctx = ctx
    ctx.signal.addEventListener("abort", () => this.log.push("abort"))
  }
  notify(index: number): void {
    this.onNotify(index, this.ctx!)
  }
  reset(): void {
    this.log.push("reset")
  }
}

const drivers: MockDriver[] = []

/** To be called after each test. */
export async function detachAll(): Promise<void> {
  for (const driver of drivers.splice(0)) await driver[Symbol.asyncDispose]()
}

/** A driver for the device. */
export async function attachDriver(
  device: VirtioDevice,
  options: MockDriverOptions = {},
): Promise<MockDriver> {
  const driver = await MockDriver.attach(device, direct, options)
  drivers.push(driver)
  return driver
}

/** A device, a driver, and the runtime between them. */
export async function attach(options: MockDriverOptions = {}) {
  const device = new TestDevice()
  const driver = await attachDriver(device, options)
  const port = driver.port as DirectPort
  return { device, driver, port, runtime: port.runtime, ctx: device.ctx!, counters: port.runtime.counters }
}

/** Posts `count` writable buffers of 8 bytes without notifying. */
export function fill(driver: MockDriver, count: number, index = 0): number[] {
  return Array.from({ length: count }, () => driver.queue(index).post([driver.writable(8)]))
}
