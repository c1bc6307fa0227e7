import type { DeviceContext, VirtioDevice } from "../device.js"
import { hasFeature } from "../features.js"
import { VIRTIO_ID } from "../ids.js"
import { ConsoleControl } from "./control.js"
import {
  CONFIG_COLS_OFFSET,
  CONFIG_MAX_PORTS_OFFSET,
  CONFIG_ROWS_OFFSET,
  CONFIG_SIZE,
  CONTROL_RX_QUEUE,
  CONTROL_TX_QUEUE,
  VIRTIO_CONSOLE_F_MULTIPORT,
  VIRTIO_CONSOLE_F_SIZE,
  VIRTIO_CONSOLE_PORT_OPEN,
  VIRTIO_CONSOLE_RESIZE,
} from "./defs.js"
import { ConsolePort, type ConsolePortOptions } from "./port.js"

const QUEUE_SIZE = 256
// User Mode Linux asks for 256 whatever is offered.
const CONTROL_QUEUE_SIZE = 256
/** Most ports of one device. */
export const MAX_PORTS = 31

/** How a console device is made. */
export interface ConsoleOptions {
  /** Ports, 1 to 31. Default: one console. */
  readonly ports?: readonly ConsolePortOptions[]
  /** Offer MULTIPORT also for a single port. Default: with more than one port. */
  readonly multiport?: boolean
}

/**
 * Console device: terminals and byte channels between guest and host.
 *
 * With one port it is the plain two-queue console that every driver knows; with several it offers MULTIPORT,
 * and a driver that does not take it still gets port 0.
 *
 * @see virtio 1.3, section 5.3
 *
 * @example
 * ```ts
 * const device = new ConsoleDevice()
 * device.ports[0].pipe(process.stdout)
 * device.ports[0].resize({ cols: 80, rows: 25 })
 * ```
 */
export class ConsoleDevice implements VirtioDevice {
  readonly type = VIRTIO_ID.console
  readonly queueSizes: readonly number[]
  readonly features: bigint
  /** The host's ends; there is at least one. */
  readonly ports: readonly [ConsolePort, ...ConsolePort[]]
  readonly #control: ConsoleControl
  #ctx: DeviceContext | undefined
  #multiport = false

  /** @throws RangeError for no ports, or more than 31 */
  constructor(options: ConsoleOptions = {}) {
    const ports = options.ports ?? [{}]
    if (ports.length < 1 || ports.length > MAX_PORTS)
      throw new RangeError(`console with ${ports.length} ports`)
    const multiport = options.multiport ?? ports.length > 1
    if (!multiport && ports.length > 1) throw new RangeError("several ports need multiport")
    this.ports = ports.map((port, index) => new ConsolePort(index, port, this.#owner())) as [ConsolePort]
    this.#control = new ConsoleControl(this.ports)
    this.features = VIRTIO_CONSOLE_F_SIZE | (multiport ? VIRTIO_CONSOLE_F_MULTIPORT : 0n)
    this.queueSizes = queueSizes(ports.length, multiport)
  }

  /** Control messages of the guest that made no sense. */
  get ignoredMessages(): number {
    return this.#control.ignoredMessages
  }

  readConfig(offset: number, into: Uint8Array): void {
    const config = new Uint8Array(CONFIG_SIZE)
    const view = new DataView(config.buffer)
    view.setUint16(CONFIG_COLS_OFFSET, this.ports[0].size?.cols ?? 0, true)
    view.setUint16(CONFIG_ROWS_OFFSET, this.ports[0].size?.rows ?? 0, true)
    view.setUint32(CONFIG_MAX_PORTS_OFFSET, this.ports.length, true)
    into.fill(0)
    into.set(config.subarray(Math.min(offset, CONFIG_SIZE), Math.min(offset + into.length, CONFIG_SIZE)))
  }

  activate(ctx: DeviceContext): void {
    this.#ctx = ctx
    this.#multiport = hasFeature(ctx.features, VIRTIO_CONSOLE_F_MULTIPORT)
    const usable = this.#multiport ? this.ports : [this.ports[0]]
    for (const port of usable) port.activate(ctx)
    if (this.#multiport) this.#control.activate(ctx)
    else this.ports[0].setGuestOpen(true)
  }

  notify(index: number): void {
    if (this.#multiport && (index === CONTROL_RX_QUEUE || index === CONTROL_TX_QUEUE))
      this.#control.notify(index)
    else this.ports[index < CONTROL_RX_QUEUE ? 0 : (index >> 1) - 1]?.notify(index)
  }

  reset(): void {
    this.#ctx = undefined
    this.#multiport = false
    this.#control.reset()
    for (const port of this.ports) port.reset()
  }

  /** Ports hold chains for slow readers, but nothing works on them behind this thread's back. */
  idle(): undefined {
    return undefined
  }

  #owner() {
    return {
      resized: (port: ConsolePort) => {
        this.#control.changed(port, VIRTIO_CONSOLE_RESIZE)
        if (port.index === 0 && this.#ctx && !this.#multiport) this.#ctx.configChanged()
      },
      hostOpened: (port: ConsolePort) => this.#control.changed(port, VIRTIO_CONSOLE_PORT_OPEN),
    }
  }
}

function queueSizes(ports: number, multiport: boolean): number[] {
  const sizes = [QUEUE_SIZE, QUEUE_SIZE]
  if (multiport) sizes.push(CONTROL_QUEUE_SIZE, CONTROL_QUEUE_SIZE)
  for (let port = 1; port < ports; port++) sizes.push(QUEUE_SIZE, QUEUE_SIZE)
  return sizes
}
