import { ok, strictEqual } from "node:assert"
import {
  type DeviceContext,
  DeviceRuntime,
  Negotiation,
  QueueError,
  RING_FEATURES,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  type VirtioDevice,
} from "@ts-vmm/virtio-devices"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import { guardedRam, RAM, wipe } from "./guest-ram.js"
import { fuzz } from "./harness.js"
import type { Random } from "./random.js"

/** One access of a driver to the registers of a transport, or of the transport to the runtime. */
type Step =
  | { readonly do: "status"; readonly value: number }
  /** The next step of initialisation, as an honest driver takes it. */
  | { readonly do: "advance" }
  | { readonly do: "features"; readonly value: bigint }
  | { readonly do: "size"; readonly queue: number; readonly size: number }
  | {
      readonly do: "addresses"
      readonly queue: number
      readonly desc: number
      readonly driver: number
      readonly device: number
    }
  | { readonly do: "ready"; readonly queue: number }
  | { readonly do: "notify"; readonly queue: number }
  | { readonly do: "config"; readonly offset: number; readonly length: number }

interface RegisterCase {
  readonly queueSizes: readonly number[]
  readonly steps: readonly Step[]
}

const OFFERED = RING_FEATURES | 0b1011n
const ACKNOWLEDGE = 1
const DRIVER = 2
const DRIVER_OK = 4
const FEATURES_OK = 8
const NEEDS_RESET = 64
const FAILED = 128
const ORDER = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK]

function generate(random: Random): RegisterCase {
  const queueSizes = random.list(random.between(1, 4), () => random.pick([1, 4, 16, 256]))
  const queue = () => (random.oneIn(12) ? random.edge() : random.below(queueSizes.length))
  return { queueSizes, steps: random.list(random.between(4, 40), () => randomStep(random, queue)) }
}

function randomStep(random: Random, queue: () => number): Step {
  switch (random.below(16)) {
    case 0:
      return { do: "status", value: random.oneIn(2) ? random.below(256) : random.edge() }
    case 1:
      return { do: "status", value: random.oneIn(3) ? 0 : random.pick([1, 3, 11, 15, 128, 143, 64, 79]) }
    case 2:
    case 3:
      return {
        do: "features",
        value: random.oneIn(2) ? (OFFERED & random.edge64()) | VIRTIO_F_VERSION_1 : random.edge64(),
      }
    case 4:
    case 5:
      return {
        do: "size",
        queue: queue(),
        size: random.oneIn(2) ? random.pick([1, 2, 4, 16]) : random.edge(),
      }
    case 6:
    case 7:
    case 8:
      return randomAddresses(random, queue())
    case 9:
    case 10:
      return { do: "ready", queue: queue() }
    case 11:
      return { do: "notify", queue: queue() }
    case 12:
      return { do: "config", offset: random.edge(), length: random.below(32) }
    default:
      return { do: "advance" }
  }
}

function randomAddresses(random: Random, queue: number): Step {
  const base = random.pick(RAM).start
  const one = (offset: number) => {
    if (random.oneIn(20)) return Number(random.edge64())
    return base + offset + (random.oneIn(10) ? random.below(32) : 0)
  }
  return { do: "addresses", queue, desc: one(0), driver: one(0x800), device: one(0xc00) }
}

/** A device that is suspicious of its transport. */
class WatchfulDevice implements VirtioDevice {
  readonly type = 0
  readonly features = 0b1011n
  readonly queueSizes: readonly number[]
  active = false
  readonly #check: () => void
  #ctx: DeviceContext | undefined

  constructor(queueSizes: readonly number[], check: () => void) {
    this.queueSizes = queueSizes
    this.#check = check
  }

  activate(ctx: DeviceContext): void {
    ok(!this.active, "activated twice")
    this.active = true
    this.#ctx = ctx
    this.#check()
  }

  notify(index: number): void {
    ok(this.active, "notified while inactive")
    ok(this.#ctx?.hasQueue(index), "notified for a queue that is not there")
    this.#ctx?.drain(index, () => 0)
  }

  reset(): void {
    ok(this.active, "reset while inactive")
    ok(this.#ctx?.signal.aborted, "signal is not aborted at reset")
    this.active = false
  }
}

/** What the specification allows, kept beside what the state machine says. */
class Registers {
  readonly #memory: MappedMemory
  readonly #input: RegisterCase
  readonly #negotiation: Negotiation
  readonly #runtime: DeviceRuntime
  readonly #device: WatchfulDevice

  constructor(memory: MappedMemory, input: RegisterCase) {
    this.#memory = memory
    this.#input = input
    const { queueSizes } = input
    this.#negotiation = new Negotiation({ features: OFFERED, queueSizes })
    this.#device = new WatchfulDevice(queueSizes, () => this.#checkActivation())
    const nothing = () => undefined
    this.#runtime = new DeviceRuntime(this.#device, {
      interrupt: nothing,
      configInterrupt: nothing,
      needsReset: () => this.#negotiation.needsReset(),
    })
  }

  step(step: Step): void {
    const n = this.#negotiation
    const before = { status: n.status }
    const ready = "queue" in step && n.isQueueReady(step.queue)
    const setUp = n.negotiated && !n.active && !ready && (n.status & FAILED) === 0
    switch (step.do) {
      case "status":
        this.#writeStatus(step.value)
        break
      case "advance":
        this.#writeStatus(n.status | (ORDER.find(bit => (n.status & bit) === 0) ?? 0))
        break
      case "features":
        strictEqual(n.writeFeatures(step.value), (before.status & FEATURES_OK) === 0, "features are frozen")
        break
      case "size":
        if (n.setQueueSize(step.queue, step.size))
          ok(setUp && this.#isSize(step.queue, step.size), "queue size")
        break
      case "addresses":
        if (n.setQueueAddresses(step.queue, step)) ok(setUp, "queue set-up is frozen")
        break
      case "ready":
        if (n.setQueueReady(step.queue)) ok(setUp && n.isQueueReady(step.queue), "queue ready")
        break
      case "notify":
        this.#runtime.notify(step.queue)
        break
      case "config":
        this.#runtime.device.readConfig?.(step.offset, new Uint8Array(step.length))
    }
    if (n.active && n.status !== 0) strictEqual(n.features & ~OFFERED, 0n, "a feature that was not offered")
    this.#checkBroken()
  }

  end(): void {
    this.#writeStatus(0)
    ok(!this.#device.active, "active after reset")
  }

  #writeStatus(value: number): void {
    const n = this.#negotiation
    const before = n.status
    const action = n.writeStatus(value)
    if (action === "reset") {
      strictEqual(n.status, 0)
      strictEqual(value, 0)
      this.#runtime.reset()
    } else if (action === "activate") {
      this.#checkReadyToRun()
      this.#runtime.activate(this.#memory, n.features, n.readyQueues())
    } else {
      ok((n.status & before) === before, "a status bit was taken back")
      ok((n.status & DRIVER_OK) === (before & DRIVER_OK), "DRIVER_OK without activation")
    }
    strictEqual(n.status & ~(15 | NEEDS_RESET | FAILED), 0, "status bits that do not exist")
  }

  #checkReadyToRun(): void {
    const n = this.#negotiation
    strictEqual(n.status & 15, 15, "activated before its time")
    ok((n.features & VIRTIO_F_VERSION_1) !== 0n, "no VERSION_1")
    strictEqual(n.features & ~OFFERED, 0n, "a feature that was not offered")
    for (const [index, { size }] of n.readyQueues()) ok(this.#isSize(index, size), "size of a ready queue")
  }

  #isSize(index: number, size: number): boolean {
    const max = this.#input.queueSizes[index] ?? 0
    const packed = (this.#negotiation.features & VIRTIO_F_RING_PACKED) !== 0n
    return Number.isInteger(size) && size >= 1 && size <= max && (packed || Number.isInteger(Math.log2(size)))
  }

  /** The device runs: every ring has to lie in memory, aligned and apart from each other. */
  #checkActivation(): void {
    const packed = (this.#negotiation.features & VIRTIO_F_RING_PACKED) !== 0n
    for (const { size, desc, driver, device } of this.#negotiation.readyQueues().values()) {
      const parts = [
        { at: desc, size: 16 * size, alignment: 16 },
        { at: driver, size: packed ? 4 : 6 + 2 * size, alignment: packed ? 4 : 2 },
        { at: device, size: packed ? 4 : 6 + 8 * size, alignment: 4 },
      ]
      for (const part of parts) {
        strictEqual(part.at % part.alignment, 0, "ring is not aligned")
        ok(this.#memory.find(part.at, part.size), "ring outside memory")
      }
      for (const a of parts)
        for (const b of parts) ok(a === b || a.at + a.size <= b.at || b.at + b.size <= a.at, "rings overlap")
    }
  }

  #checkBroken(): void {
    const { broken } = this.#runtime
    if (broken === undefined) return
    if (!(broken instanceof QueueError)) throw broken
    ok((this.#negotiation.status & NEEDS_RESET) !== 0, "broken without DEVICE_NEEDS_RESET")
  }
}

let memory: MappedMemory

fuzz<RegisterCase>({
  name: "registers",
  share: 0.06,
  setUp() {
    memory = guardedRam()
  },
  tearDown() {
    memory.close()
  },
  generate,
  run(input) {
    wipe(memory)
    const registers = new Registers(memory, input)
    for (const step of input.steps) registers.step(step)
    registers.end()
  },
})
