import {
  RING_FEATURES,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
} from "@ts-vmm/virtio-devices"
import * as mmio from "@ts-vmm/virtio-devices/mmio"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import { guardedRam, wipe } from "./guest-ram.js"
import { fuzz } from "./harness.js"
import { DEVICE_FEATURES, Guest, type MmioCase, ringBase, type Step } from "./mmio-guest.js"
import type { Random } from "./random.js"

const OFFERED = RING_FEATURES | VIRTIO_F_RING_RESET | DEVICE_FEATURES
const STATUS = mmio.VIRTIO_MMIO_STATUS
const REGISTERS = Object.entries(mmio)
  .filter(([name]) => name.startsWith("VIRTIO_MMIO_"))
  .map(([, value]) => value as number)
  .filter(offset => offset % 4 === 0 && offset < mmio.VIRTIO_MMIO_CONFIG)

const DRIVER_FEATURES = [mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL, mmio.VIRTIO_MMIO_DRIVER_FEATURES]

function generate(random: Random): MmioCase {
  const queueSizes = random.list(random.between(1, 4), () => random.pick([1, 4, 16, 64]))
  const queue = () => (random.oneIn(12) ? random.edge() : random.below(queueSizes.length))
  const steps = (count: number) => random.list(count, () => randomStep(random, queue))
  const opening = random.oneIn(3) ? [] : honestOpening(random, queueSizes)
  return {
    queueSizes,
    async: random.oneIn(2),
    steps: [...steps(random.below(6)), ...opening, ...steps(random.between(4, 40))],
  }
}

/** Up to DRIVER_OK, so that there is something to disturb. */
function honestOpening(random: Random, queueSizes: readonly number[]): Step[] {
  const ring = random.oneIn(5) ? VIRTIO_F_RING_PACKED : 0n
  const advance: Step = { do: "advance" }
  const features: Step = { do: "features", value: VIRTIO_F_VERSION_1 | VIRTIO_F_RING_RESET | ring }
  const queues = queueSizes.map((size, queue): Step => ({ do: "set-up", queue, size, desc: ringBase(queue) }))
  return [advance, advance, features, advance, ...queues, advance]
}

function randomStep(random: Random, queue: () => number): Step {
  switch (random.below(16)) {
    case 0:
      return { do: "read", offset: randomOffset(random), width: random.pick([1, 2, 4, 8, random.below(17)]) }
    case 1:
    case 2:
      return {
        do: "write",
        offset: randomOffset(random),
        bytes: random.bytes(random.pick([1, 2, 4, 4, 8, 3])),
      }
    case 3:
      return {
        do: "register",
        offset: STATUS,
        value: random.oneIn(2) ? 0 : random.oneIn(2) ? random.below(256) : random.pick([1, 3, 11, 15, 143]),
      }
    case 4:
      return {
        do: "register",
        offset: mmio.VIRTIO_MMIO_QUEUE_RESET,
        value: random.oneIn(4) ? random.edge() : 1,
      }
    case 5:
      return { do: "register", offset: mmio.VIRTIO_MMIO_QUEUE_READY, value: random.below(3) }
    case 6:
      return { do: "register", offset: mmio.VIRTIO_MMIO_QUEUE_SEL, value: queue() }
    case 7:
      return {
        do: "register",
        offset: random.pick(random.oneIn(2) ? REGISTERS : DRIVER_FEATURES),
        value: random.edge(),
      }
    case 8:
      return { do: "features", value: random.oneIn(2) ? OFFERED & random.edge64() : random.edge64() }
    case 9:
      return {
        do: "set-up",
        queue: queue(),
        size: random.oneIn(3) ? random.edge() : random.pick([1, 4]),
        desc: random.oneIn(6) ? Number(random.edge64()) : ringBase(random.below(4)),
      }
    case 10:
    case 11:
      return { do: "post", queue: queue(), length: random.oneIn(8) ? random.edge() : random.between(1, 64) }
    case 12:
      return { do: "notify", queue: queue() }
    case 13:
      return { do: random.oneIn(2) ? "finish" : "turn" }
    case 14:
      return { do: random.oneIn(3) ? "config" : "finish" }
    default:
      return { do: "advance" }
  }
}

function randomOffset(random: Random): number {
  if (random.oneIn(3)) return random.pick(REGISTERS)
  return random.oneIn(8) ? random.edge() : random.below(mmio.VIRTIO_MMIO_WINDOW_SIZE + 16)
}

let memory: MappedMemory

fuzz<MmioCase>({
  name: "mmio",
  covers: ["packages/virtio-devices/src/mmio"],
  share: 0.05,
  minimum: 800,
  setUp() {
    memory = guardedRam()
  },
  tearDown() {
    memory.close()
  },
  generate,
  async run(input) {
    wipe(memory)
    const guest = new Guest(memory, input)
    for (const step of input.steps) await guest.step(step)
    await guest.recover()
  },
})
