import type { DeviceContext } from "../device.js"
import {
  CONTROL_EVENT_OFFSET,
  CONTROL_ID_OFFSET,
  CONTROL_RX_QUEUE,
  CONTROL_SIZE,
  CONTROL_TX_QUEUE,
  CONTROL_VALUE_OFFSET,
  VIRTIO_CONSOLE_CONSOLE_PORT,
  VIRTIO_CONSOLE_DEVICE_READY,
  VIRTIO_CONSOLE_PORT_ADD,
  VIRTIO_CONSOLE_PORT_NAME,
  VIRTIO_CONSOLE_PORT_OPEN,
  VIRTIO_CONSOLE_PORT_READY,
  VIRTIO_CONSOLE_RESIZE,
} from "./defs.js"
import type { ConsolePort } from "./port.js"

/** Events that the device has to tell about a port, in the order the guest should hear them. */
const EVENT_ORDER = [
  VIRTIO_CONSOLE_PORT_ADD,
  VIRTIO_CONSOLE_CONSOLE_PORT,
  VIRTIO_CONSOLE_PORT_NAME,
  VIRTIO_CONSOLE_RESIZE,
  VIRTIO_CONSOLE_PORT_OPEN,
] as const

interface PortState {
  readonly port: ConsolePort
  /** The guest made the port. */
  ready: boolean
  /** Events to tell; a set, so that a guest which never listens makes nothing grow. */
  readonly pending: Set<number>
}

/**
 * The control queues of a console device with MULTIPORT: which ports there are, what they are called, who
 * has them open, and how large they are.
 *
 * @see virtio 1.3, section 5.3.6.2
 */
export class ConsoleControl {
  /** Messages of the guest that made no sense. */
  ignoredMessages = 0
  readonly #states: PortState[]
  #ctx: DeviceContext | undefined

  constructor(ports: readonly ConsolePort[]) {
    this.#states = ports.map(port => ({ port, ready: false, pending: new Set() }))
  }

  activate(ctx: DeviceContext): void {
    this.#ctx = ctx
  }

  reset(): void {
    this.#ctx = undefined
    for (const state of this.#states) {
      state.ready = false
      state.pending.clear()
    }
  }

  /** A port's size or host side changed. */
  changed(port: ConsolePort, event: typeof VIRTIO_CONSOLE_RESIZE | typeof VIRTIO_CONSOLE_PORT_OPEN): void {
    const state = this.#states[port.index]!
    if (!this.#ctx || !state.ready || (event === VIRTIO_CONSOLE_RESIZE && !port.isConsole)) return
    state.pending.add(event)
    this.#tell()
  }

  notify(index: number): void {
    if (index === CONTROL_TX_QUEUE) this.#listen()
    this.#tell()
  }

  #listen(): void {
    const message = new Uint8Array(CONTROL_SIZE)
    const view = new DataView(message.buffer)
    this.#ctx?.drain(CONTROL_TX_QUEUE, chain => {
      if (chain.read(0, message) < CONTROL_SIZE) {
        this.ignoredMessages++
        return 0
      }
      this.#hear(
        view.getUint32(CONTROL_ID_OFFSET, true),
        view.getUint16(CONTROL_EVENT_OFFSET, true),
        view.getUint16(CONTROL_VALUE_OFFSET, true),
      )
      return 0
    })
  }

  #hear(id: number, event: number, value: number): void {
    if (event === VIRTIO_CONSOLE_DEVICE_READY && value === 1) {
      for (const state of this.#states) state.pending.add(VIRTIO_CONSOLE_PORT_ADD)
      return
    }
    const state = this.#states[id]
    if (!state) this.ignoredMessages++
    else if (event === VIRTIO_CONSOLE_PORT_READY && value === 1) this.#portReady(state)
    else if (event === VIRTIO_CONSOLE_PORT_OPEN) state.port.setGuestOpen(value === 1)
    else this.ignoredMessages++
  }

  #portReady(state: PortState): void {
    const { port, pending } = state
    state.ready = true
    if (port.isConsole) pending.add(VIRTIO_CONSOLE_CONSOLE_PORT)
    if (port.name !== undefined) pending.add(VIRTIO_CONSOLE_PORT_NAME)
    if (port.isConsole && port.size) pending.add(VIRTIO_CONSOLE_RESIZE)
    // A console is open from the guest's point of view whether or not somebody looks at it.
    if (port.isConsole || port.hostOpen) pending.add(VIRTIO_CONSOLE_PORT_OPEN)
  }

  /** Writes what is pending as far as the guest left buffers for it. */
  #tell(): void {
    const ctx = this.#ctx
    if (!ctx) return
    for (const { port, pending } of this.#states) {
      for (const event of EVENT_ORDER) {
        if (!pending.has(event)) continue
        const chain = ctx.pop(CONTROL_RX_QUEUE)
        if (!chain) return
        pending.delete(event)
        ctx.complete(CONTROL_RX_QUEUE, chain, chain.write(0, encode(port, event)))
      }
    }
  }
}

function encode(port: ConsolePort, event: (typeof EVENT_ORDER)[number]): Uint8Array {
  const extra = payload(port, event)
  const message = new Uint8Array(CONTROL_SIZE + extra.length)
  const view = new DataView(message.buffer)
  view.setUint32(CONTROL_ID_OFFSET, port.index, true)
  view.setUint16(CONTROL_EVENT_OFFSET, event, true)
  const value = event === VIRTIO_CONSOLE_PORT_OPEN ? Number(port.isConsole || port.hostOpen) : 1
  view.setUint16(CONTROL_VALUE_OFFSET, value, true)
  message.set(extra, CONTROL_SIZE)
  return message
}

function payload(port: ConsolePort, event: (typeof EVENT_ORDER)[number]): Uint8Array {
  if (event === VIRTIO_CONSOLE_PORT_NAME) return new TextEncoder().encode(port.name ?? "")
  if (event !== VIRTIO_CONSOLE_RESIZE) return new Uint8Array(0)
  const size = new Uint8Array(4)
  const view = new DataView(size.buffer)
  // As the specification has it. Linux reads it so from 6.16 on; kernels before take the two the other way round.
  view.setUint16(0, port.size?.cols ?? 0, true)
  view.setUint16(2, port.size?.rows ?? 0, true)
  return size
}
