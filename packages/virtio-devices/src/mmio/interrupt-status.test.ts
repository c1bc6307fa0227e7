import { once } from "node:events"
import { Worker } from "node:worker_threads"
import { describe, expect, test } from "vitest"
import { RngDevice } from "../rng/index.js"
import * as defs from "./defs.js"
import { InterruptStatus } from "./index.js"
import { attach, KeepingDevice, openPort } from "./testing.js"

const { VIRTIO_MMIO_INT_CONFIG: CONFIG, VIRTIO_MMIO_INT_VRING: VRING } = defs

describe("interrupt status", () => {
  test("is a cell among others", () => {
    const cells = new Uint32Array(4)
    const status = new InterruptStatus(cells, 2)
    status.raise(CONFIG)
    status.raise(VRING)
    expect([...cells]).toEqual([0, 0, 3, 0])
    status.clear(VRING)
    expect(status.load()).toBe(CONFIG)
    for (const index of [-1, 4, 0.5]) expect(() => new InterruptStatus(cells, index)).toThrow(RangeError)
  })

  test("the bit is there when the edge comes, and every interrupt is an edge", async () => {
    const interruptStatus = new InterruptStatus()
    const seen: number[] = []
    const interrupt = () => void seen.push(interruptStatus.load())
    const { device, driver } = await attach(new KeepingDevice(), { interruptStatus, interrupt })
    device.answers = true
    driver.post(0, [driver.writable(8)])
    device.ctx?.configChanged()
    expect(seen).toEqual([VRING, VRING | CONFIG])
    // Nobody acknowledged, and still the next one is signalled.
    driver.queue(0).poll()
    driver.queue(0).setInterrupts(true)
    driver.post(0, [driver.writable(8)])
    expect(seen).toEqual([VRING, VRING | CONFIG, VRING | CONFIG])
  })

  test("T9: acknowledging takes the named bits and no others, at any time", () => {
    const interruptStatus = new InterruptStatus()
    const port = openPort(new KeepingDevice(), { interruptStatus })
    interruptStatus.raise(VRING | CONFIG)
    for (const [bits, left] of [
      [0, 3],
      [0xffff_fffc, 3],
      [CONFIG, VRING],
      [CONFIG, VRING],
      [0xffff_ffff, 0],
    ] as const) {
      port.write32(defs.VIRTIO_MMIO_INTERRUPT_ACK, bits)
      expect(port.read32(defs.VIRTIO_MMIO_INTERRUPT_STATUS)).toBe(left)
    }
    port.write32(defs.VIRTIO_MMIO_INTERRUPT_STATUS, VRING)
    expect(interruptStatus.load()).toBe(0)
  })

  test("a reset clears what was not acknowledged", async () => {
    const interruptStatus = new InterruptStatus()
    const { device, port } = await attach(new KeepingDevice(), {
      interruptStatus,
      interrupt: () => undefined,
    })
    device.ctx?.configChanged()
    expect(interruptStatus.load()).toBe(CONFIG)
    await port.reset()
    expect(interruptStatus.load()).toBe(0)
  })

  test("T9: acknowledgements at every moment lose no interrupt: each buffer is heard of", async () => {
    const { driver, port } = await attach(
      new RngDevice({ fill: into => into.fill(1) }),
      {},
      { queueSizes: [4] },
    )
    const ack = (bits: number) => port.write32(defs.VIRTIO_MMIO_INTERRUPT_ACK, bits)
    for (let i = 1; i <= 5_000; i++) {
      ack(i & 3)
      driver.post(0, [driver.writable(1, 2 ** 32 + 0x10_0000)])
      ack(3)
      expect(driver.interrupts(0)).toBe(i)
      expect(driver.queue(0).poll()).toBeDefined()
      driver.queue(0).setInterrupts(true)
    }
    expect(port.read32(defs.VIRTIO_MMIO_INTERRUPT_STATUS)).toBe(0)
  })
})

/** A vCPU thread: sleeps until an edge, then reads the status, acknowledges it, and looks at what was done. */
const VCPU = `
  const { workerData: { cells }, parentPort } = require("node:worker_threads")
  const [STATUS, EDGES, DONE, HEARD, GOAL] = [0, 1, 2, 3, 4]
  parentPort.postMessage("ready")
  for (let edges = 0; Atomics.load(cells, HEARD) < Atomics.load(cells, GOAL); ) {
    Atomics.wait(cells, EDGES, edges)
    edges = Atomics.load(cells, EDGES)
    const status = Atomics.load(cells, STATUS)
    Atomics.and(cells, STATUS, ~status)
    if (status & 1) Atomics.store(cells, HEARD, Atomics.load(cells, DONE))
  }
`

test("T9: a vCPU thread that acknowledges by itself misses nothing in a storm", async () => {
  const [EDGES, DONE, HEARD, GOAL] = [1, 2, 3, 4] as const
  const ROUNDS = 200_000
  const shared = new SharedArrayBuffer(20)
  // Unsigned for the register, signed for Atomics.wait: the same cells.
  const cells = new Int32Array(shared)
  const status = new InterruptStatus(new Uint32Array(shared))
  cells[GOAL] = ROUNDS
  const vcpu = new Worker(VCPU, { eval: true, workerData: { cells } })
  const exited = once(vcpu, "exit")
  await once(vcpu, "message")
  for (let i = 1; i <= ROUNDS; i++) {
    Atomics.store(cells, DONE, i)
    status.raise(VRING)
    Atomics.add(cells, EDGES, 1)
    Atomics.notify(cells, EDGES)
  }
  await exited
  expect([cells[HEARD], status.load()]).toEqual([ROUNDS, 0])
})
