import { deepStrictEqual, ok, strictEqual } from "node:assert"
import { setImmediate } from "node:timers/promises"
import {
  type DescriptorChain,
  type DeviceContext,
  QueueError,
  type VirtioDevice,
} from "@ts-vmm/virtio-devices"
import * as mmio from "@ts-vmm/virtio-devices/mmio"
import { MmioPort, MockDriver } from "@ts-vmm/virtio-devices/testing"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import { wipe, writeDescriptor, writeWhereThere } from "./guest-ram.js"

/** What the guest, the device, or time does. */
export type Step =
  /** Any access to the window. */
  | { readonly do: "read"; readonly offset: number; readonly width: number }
  | { readonly do: "write"; readonly offset: number; readonly bytes: Uint8Array }
  /** A register, as wide as it is. */
  | { readonly do: "register"; readonly offset: number; readonly value: number }
  /** Initialisation as an honest driver does it, a step at a time. */
  | { readonly do: "advance" }
  | { readonly do: "features"; readonly value: bigint }
  | { readonly do: "set-up"; readonly queue: number; readonly size: number; readonly desc: number }
  | { readonly do: "post"; readonly queue: number; readonly length: number }
  | { readonly do: "notify"; readonly queue: number }
  /** The device: a request ends, config space changes. */
  | { readonly do: "finish" }
  | { readonly do: "config" }
  | { readonly do: "turn" }

export interface MmioCase {
  readonly queueSizes: readonly number[]
  /** Requests go on after the device was notified. */
  readonly async: boolean
  readonly steps: readonly Step[]
}

/** Features of the device itself. */
export const DEVICE_FEATURES = 0b1011n
const ORDER = [1, 2, 8, 4]
const DRIVER_OK = 4
const STEPS = 15
const NEEDS_RESET = 64
const FAILED = 128
const { VIRTIO_MMIO_STATUS: STATUS, VIRTIO_MMIO_CONFIG: CONFIG } = mmio
const STOPPING = new Set([mmio.VIRTIO_MMIO_QUEUE_READY, mmio.VIRTIO_MMIO_QUEUE_RESET])
/** Config space ends with the window. */
const CONFIG_ROOM = mmio.VIRTIO_MMIO_WINDOW_SIZE - CONFIG

/** Room for one ring of 64 descriptors. */
export const ringBase = (queue: number): number => 0x2000 + 0x1000 * (queue & 3)
const BUFFERS = 0x8000

/** A device that is suspicious of its transport, with I/O that nobody can call back. */
class WatchfulDevice implements VirtioDevice {
  readonly type = 7
  readonly features = DEVICE_FEATURES
  readonly queueSizes: readonly number[]
  /** Requests whose I/O works on guest memory, whatever became of their chains. */
  readonly running: {
    readonly queue: number
    readonly chain: DescriptorChain
    readonly ctx: DeviceContext
  }[] = []
  active = false
  async: boolean
  ctx: DeviceContext | undefined
  #config = 0
  #waiting: (() => void)[] = []

  constructor({ queueSizes, async }: MmioCase) {
    this.queueSizes = queueSizes
    this.async = async
  }

  readConfig(offset: number, into: Uint8Array): void {
    ok(Number.isInteger(offset) && offset >= 0 && offset + into.length <= CONFIG_ROOM)
    if (offset === 0 && into.length > 0) into[0] = this.#config
  }

  writeConfig(offset: number, from: Uint8Array): void {
    ok(Number.isInteger(offset) && offset >= 0 && offset + from.length <= CONFIG_ROOM)
  }

  activate(ctx: DeviceContext): void {
    ok(!this.active, "activated twice")
    strictEqual(this.running.length, 0, "activated while I/O of the time before goes on")
    this.active = true
    this.ctx = ctx
  }

  notify(index: number): void {
    const { ctx } = this
    ok(this.active && ctx, "notified while inactive")
    ok(ctx.hasQueue(index), "notified for a queue that is not there")
    ctx.drain(index, chain => {
      if (!this.async) return chain.writableLength
      this.running.push({ queue: index, chain, ctx })
      return undefined
    })
  }

  reset(): void {
    ok(this.active, "reset while inactive")
    ok(this.ctx?.signal.aborted, "signal is not aborted at reset")
    this.active = false
  }

  idle(): Promise<void> | undefined {
    return this.running.length === 0 ? undefined : new Promise(resolve => this.#waiting.push(resolve))
  }

  /** The I/O of the oldest request ends. */
  finish(): void {
    const request = this.running.shift()
    request?.ctx.complete(request.queue, request.chain, request.chain.writableLength)
    if (this.running.length === 0) for (const resolve of this.#waiting.splice(0)) resolve()
  }

  changeConfig(): void {
    this.#config = (this.#config + 1) & 0xff
    this.ctx?.configChanged()
  }
}

/** One guest, and what it must see. */
export class Guest {
  readonly #device: WatchfulDevice
  readonly #port: MmioPort
  readonly #memory: MappedMemory
  readonly #posted = [0, 0, 0, 0]
  #broken: Error | undefined
  #resetting: Promise<void> | undefined
  #queue = 0

  constructor(memory: MappedMemory, input: MmioCase) {
    this.#memory = memory
    this.#device = new WatchfulDevice(input)
    this.#port = new MmioPort(this.#device, memory, {
      onBroken: reason => {
        this.#broken = reason
      },
    })
  }

  async step(step: Step): Promise<void> {
    const before = this.#port.read32(STATUS)
    const wasResetting = this.#resetting !== undefined
    const resets = this.#perform(step)
    // What ended may have been waited for.
    if (step.do === "turn" || step.do === "finish") await setImmediate()
    const after = this.#port.read32(STATUS)
    strictEqual(after & ~(STEPS | NEEDS_RESET | FAILED), 0, "status bits that do not exist")
    ok(isPrefix(after), "a step of initialisation is missing")
    const back = resets || (wasResetting && this.#resetting === undefined)
    ok(back ? after === 0 : (after & before) === before, "a status bit was taken back")
    if ((after & DRIVER_OK) !== 0 && (after & NEEDS_RESET) === 0 && !this.#resetting)
      ok(this.#device.active, "not activated")
    this.#checkBroken()
  }

  /** Whatever happened: a reset and an honest driver. */
  async recover(): Promise<void> {
    const reset = this.#port.write32(STATUS, 0)
    while (this.#device.running.length > 0) this.#device.finish()
    await reset
    strictEqual(this.#port.read32(STATUS), 0)
    ok(!this.#device.active, "active after reset")
    this.#device.async = false
    wipe(this.#memory)
    const driver = await MockDriver.attach(this.#device, { name: "mmio", open: async () => this.#port })
    strictEqual((await driver.send(0, [driver.writable(8)])).length, 8)
    ok(driver.interrupts(0) > 0, "no interrupt")
    strictEqual(await this.#port.needsReset(), false)
    await this.#port.transport.close()
    strictEqual(this.#port.read32(mmio.VIRTIO_MMIO_MAGIC_VALUE), 0)
  }

  /** @returns true when the device was reset, and is done with it */
  #perform(step: Step): boolean {
    switch (step.do) {
      case "read":
        this.#read(step.offset, step.width)
        return false
      case "write":
        return this.#write(step.offset, step.bytes)
      case "register":
        return this.#register(step.offset, step.value)
      case "advance": {
        const status = this.#port.read32(STATUS)
        return this.#register(STATUS, status | (ORDER.find(bit => (status & bit) === 0) ?? 0))
      }
      case "features":
        for (const word of [0, 1]) {
          this.#register(mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL, word)
          this.#register(
            mmio.VIRTIO_MMIO_DRIVER_FEATURES,
            Number((step.value >> BigInt(32 * word)) & 0xffff_ffffn),
          )
        }
        return false
      case "set-up":
        this.#setUp(step.queue, step.size, step.desc)
        return false
      case "post":
        this.#post(step.queue, step.length)
        return false
      case "notify":
        this.#port.transport.notify(step.queue)
        return false
      case "finish":
        this.#device.finish()
        return false
      case "config":
        this.#device.changeConfig()
        return false
      case "turn":
        return false
    }
  }

  #read(offset: number, width: number): void {
    const bytes = new Uint8Array(width).fill(0xee)
    this.#port.transport.read(offset, bytes)
    if ((offset < CONFIG && width !== 4) || offset >= mmio.VIRTIO_MMIO_WINDOW_SIZE)
      deepStrictEqual(bytes, new Uint8Array(width))
  }

  #register(offset: number, value: number): boolean {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setUint32(0, value, true)
    return this.#write(offset, bytes)
  }

  #write(offset: number, bytes: Uint8Array): boolean {
    const result = this.#port.transport.write(offset, bytes)
    const word =
      bytes.length === 4 ? new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) : undefined
    if (offset === mmio.VIRTIO_MMIO_QUEUE_SEL && word !== undefined && !this.#resetting) this.#queue = word
    const isReset = offset === STATUS && word === 0
    if (result) {
      if (this.#resetting) return false
      if (isReset) this.#awaitReset(result)
      else this.#awaitQueue(result, this.#queue)
      return false
    }
    if (isReset) {
      this.#queue = 0
      this.#expectQuiet()
    } else if (STOPPING.has(offset) && this.#port.read32(mmio.VIRTIO_MMIO_QUEUE_READY) === 0) {
      this.#expectStopped(this.#queue)
    }
    return isReset
  }

  #awaitReset(reset: Promise<void>): void {
    this.#resetting = reset
    void reset.then(() => {
      this.#resetting = undefined
      this.#queue = 0
      this.#expectQuiet()
    })
  }

  /** The memory is the guest's again: nothing may work on it. */
  #expectQuiet(): void {
    strictEqual(this.#device.running.length, 0, "I/O goes on after a reset")
  }

  #awaitQueue(stopped: Promise<void>, queue: number): void {
    const { ctx } = this.#device
    void stopped.then(() => {
      // A later activation may use the queue again by now.
      if (this.#device.ctx === ctx && this.#device.active) this.#expectStopped(queue)
    })
  }

  #expectStopped(queue: number): void {
    ok(!this.#device.running.some(one => one.queue === queue), "I/O goes on after a queue was stopped")
  }

  #setUp(queue: number, size: number, desc: number): void {
    this.#register(mmio.VIRTIO_MMIO_QUEUE_SEL, queue)
    this.#register(mmio.VIRTIO_MMIO_QUEUE_NUM, size)
    const parts = [desc, desc + 0x800, desc + 0xc00]
    for (const [i, at] of parts.entries()) {
      this.#register(mmio.VIRTIO_MMIO_QUEUE_DESC_LOW + 0x10 * i, at % 2 ** 32)
      this.#register(mmio.VIRTIO_MMIO_QUEUE_DESC_HIGH + 0x10 * i, Math.floor(at / 2 ** 32))
    }
    this.#register(mmio.VIRTIO_MMIO_QUEUE_READY, 1)
    // Where the ring is left from a time before, it begins again.
    this.#posted[queue & 3] = 0
    writeWhereThere(this.#memory, ringBase(queue) + 0x800, new Uint8Array(4))
  }

  /** Makes descriptor 0, 1, 2, … available, one at a time: honest enough for a split ring. */
  #post(queue: number, length: number): void {
    const count = this.#posted[queue & 3]!++
    const base = ringBase(queue)
    const slot = count % 4
    writeDescriptor(this.#memory, base + 16 * slot, { address: BigInt(BUFFERS), length, flags: 2, next: 0 })
    const avail = new Uint16Array(2 + 64)
    avail[1] = count + 1
    for (let i = 0; i < 64; i++) avail[2 + i] = i % 4
    writeWhereThere(this.#memory, base + 0x800, new Uint8Array(avail.buffer))
    this.#register(mmio.VIRTIO_MMIO_QUEUE_NOTIFY, queue)
  }

  #checkBroken(): void {
    if (this.#broken !== undefined && !(this.#broken instanceof QueueError)) throw this.#broken
  }
}

function isPrefix(status: number): boolean {
  const missing = ORDER.findIndex(bit => (status & bit) === 0)
  return missing < 0 || ORDER.slice(missing).every(bit => (status & bit) === 0)
}
