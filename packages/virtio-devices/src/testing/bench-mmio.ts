import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import type { DeviceContext, VirtioDevice } from "../device.js"
import { VIRTIO_F_VERSION_1 } from "../features.js"
import * as defs from "../mmio/defs.js"
import { MmioTransport } from "../mmio/transport.js"
import { DEFAULT_REGIONS } from "./mock-driver.js"

/** What `benchMmio` measured, in nanoseconds; medians over the rounds. */
export interface MmioBenchResult {
  /** One read of the status register. */
  readonly nsPerRead: number
  /** One write of the queue selector. */
  readonly nsPerWrite: number
  /** One notification of an empty queue by ioeventfd, device and its look at the ring included. */
  readonly nsPerNotify: number
  readonly rounds: number
}

/** The first, unmeasured round: the compiler has seen everything by then. */
const WARM_UP = 200_000
const RING = { size: 64, desc: 0x1000, driver: 0x2000, device: 0x3000 }

/** Looks at its ring when it is notified. */
class LookingDevice implements VirtioDevice {
  readonly type = 0
  readonly queueSizes = [RING.size]
  readonly features = 0n
  #ctx: DeviceContext | undefined

  activate(ctx: DeviceContext): void {
    this.#ctx = ctx
  }

  notify(index: number): void {
    this.#ctx?.drain(index, () => 0)
  }

  reset(): void {
    this.#ctx = undefined
  }
}

/**
 * Times the registers of virtio-mmio as a vCPU's exits use them.
 *
 * @param rounds rounds to take the median of
 * @param accesses accesses per round
 *
 * @example
 * ```ts
 * console.log(benchMmio().nsPerNotify)
 * ```
 */
export function benchMmio(rounds = 51, accesses = 20_000): MmioBenchResult {
  const memory = arrayBufferMemory(DEFAULT_REGIONS)
  const transport = new MmioTransport(new LookingDevice(), { memory, interrupt: () => undefined })
  const word = new Uint8Array(4)
  const write = (offset: number, value: number) => {
    new DataView(word.buffer).setUint32(0, value, true)
    void transport.write(offset, word)
  }
  start(write)
  const time = (access: () => void) => median(rounds, accesses, access)
  const result = {
    nsPerRead: time(() => transport.read(defs.VIRTIO_MMIO_STATUS, word)),
    nsPerWrite: time(() => void transport.write(defs.VIRTIO_MMIO_QUEUE_SEL, word)),
    nsPerNotify: time(() => transport.notify(0)),
    rounds,
  }
  memory.close()
  return result
}

function start(write: (offset: number, value: number) => void): void {
  write(defs.VIRTIO_MMIO_STATUS, 3)
  write(defs.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1)
  write(defs.VIRTIO_MMIO_DRIVER_FEATURES, Number(VIRTIO_F_VERSION_1 >> 32n))
  write(defs.VIRTIO_MMIO_STATUS, 11)
  write(defs.VIRTIO_MMIO_QUEUE_NUM, RING.size)
  write(defs.VIRTIO_MMIO_QUEUE_DESC_LOW, RING.desc)
  write(defs.VIRTIO_MMIO_QUEUE_AVAIL_LOW, RING.driver)
  write(defs.VIRTIO_MMIO_QUEUE_USED_LOW, RING.device)
  write(defs.VIRTIO_MMIO_QUEUE_READY, 1)
  write(defs.VIRTIO_MMIO_STATUS, 15)
}

function median(rounds: number, accesses: number, access: () => void): number {
  const times: number[] = []
  for (let round = 0; round <= rounds; round++) {
    const count = round === 0 ? WARM_UP : accesses
    const begin = process.hrtime.bigint()
    for (let i = 0; i < count; i++) access()
    if (round > 0) times.push(Number(process.hrtime.bigint() - begin) / count)
  }
  return times.sort((a, b) => a - b)[rounds >> 1]!
}
