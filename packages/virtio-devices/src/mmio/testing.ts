import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import type { DeviceContext, VirtioDevice } from "../device.js"
import type { DescriptorChain } from "../queue/chain.js"
import type { FrontDoor } from "../testing/front-door.js"
import { MmioPort } from "../testing/mmio-port.js"
import { DEFAULT_REGIONS, MockDriver, type MockDriverOptions } from "../testing/mock-driver.js"
import type { MmioTransportOptions } from "./transport.js"

/** A device that keeps what it is sent until a test says otherwise. */
export class KeepingDevice implements VirtioDevice {
  readonly type = 42
  readonly queueSizes = [16, 8]
  readonly features = 0b101n | (1n << 51n)
  /** Config space; the first byte alone can be written. */
  readonly config = Uint8Array.from({ length: 20 }, (_, i) => 0xa0 + i)
  readonly chains: DescriptorChain[] = []
  readonly log: string[] = []
  ctx: DeviceContext | undefined
  /** Answer chains at once. */
  answers = false
  idle?: () => Promise<void> | undefined

  readConfig(offset: number, into: Uint8Array): void {
    into.set(this.config.subarray(offset, offset + into.length))
  }

  writeConfig(offset: number, from: Uint8Array): void {
    if (offset === 0 && from.length > 0) this.config[0] = from[0]!
  }

  activate(ctx: DeviceContext): void {
    this.log.push("activate")
    this.ctx = ctx
  }

  notify(index: number): void {
    this.ctx?.drain(index, chain => {
      if (this.answers) return chain.writableLength
      this.chains.push(chain)
      return undefined
    })
  }

  reset(): void {
    this.log.push("reset")
    this.ctx = undefined
  }
}

/** The registers of `device`, untouched. */
export function openPort(device: VirtioDevice, options: Partial<MmioTransportOptions> = {}): MmioPort {
  return new MmioPort(device, arrayBufferMemory(DEFAULT_REGIONS), options)
}

/** A driver that has initialised `device` through its registers. */
export async function attach<D extends VirtioDevice>(
  device: D,
  options: Partial<MmioTransportOptions> = {},
  driverOptions: MockDriverOptions = {},
) {
  const over: FrontDoor = { name: "mmio", open: async () => openPort(device, options) }
  const driver = await MockDriver.attach(device, over, driverOptions)
  const port = driver.port as MmioPort
  return { device, driver, port, transport: port.transport, counters: port.transport.counters }
}

/** An access of any width, as the guest makes it. */
export function readBytes(port: MmioPort, offset: number, width: number): Uint8Array {
  const bytes = new Uint8Array(width).fill(0xee)
  port.transport.read(offset, bytes)
  return bytes
}
