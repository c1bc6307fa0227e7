import { deepStrictEqual, ok } from "node:assert"
import { BALLOON_PAGE_SIZE, BalloonDevice, BalloonError } from "@ts-vmm/virtio-devices/balloon"
import { BUFFERS, BUFFERS_END, type DeviceRig } from "./device-rig.js"
import { fuzzDevice, rigFor } from "./device-target.js"
import type { Random } from "./random.js"

const INFLATE_QUEUE = 0
const STATISTICS_QUEUE = 2
const HINT_QUEUE = 3
const FIRST_PAGE = BUFFERS / BALLOON_PAGE_SIZE
const END_PAGE = BUFFERS_END / BALLOON_PAGE_SIZE
/** Longer than a case: what the guest does not answer ends by the next reset. */
const TIMEOUT_MS = 60_000

let balloon: BalloonDevice

const ignoreRefusal = (error: unknown) => {
  if (!(error instanceof BalloonError)) throw error
}

function onPages(start: number, size: number): void {
  ok(start >= 0 && size > 0 && start + size <= BUFFERS_END, "a hint outside of memory")
  ok(start % BALLOON_PAGE_SIZE === 0 && size % BALLOON_PAGE_SIZE === 0, "a hint that is not of whole pages")
}

function host(what: number): void {
  const doings = [
    () => balloon.setTarget(what),
    () => void balloon.statistics({ timeoutMs: TIMEOUT_MS }).catch(ignoreRefusal),
    () => void balloon.hintFreePages({ onPages, timeoutMs: TIMEOUT_MS }).catch(ignoreRefusal),
    () => balloon.releaseHints(),
  ]
  doings[what & 3]?.()
}

const words = (values: readonly number[]) => new Uint8Array(Uint32Array.from(values).buffer)
const page = (random: Random) => (random.oneIn(5) ? random.edge() : random.between(0, END_PAGE))

/** Page numbers, statistics, commands of hinting, or pages themselves; now and then for another queue. */
function balloonChain(random: Random) {
  const kind = random.below(5)
  const queue = random.oneIn(12) ? random.below(5) : kind
  if (kind === STATISTICS_QUEUE) return { queue, readable: statistics(random), writable: 0 }
  if (kind === HINT_QUEUE && random.oneIn(2))
    return { queue, readable: words([random.oneIn(4) ? random.edge() : random.below(5)]), writable: 0 }
  if (kind >= HINT_QUEUE)
    return {
      queue,
      readable: new Uint8Array(),
      writable: random.pick([1, 4095, 4096, 4097, 8192, 40_960, 90_000]),
    }
  const count = random.oneIn(10) ? 1024 : random.below(32)
  return { queue, readable: words(random.list(count, () => page(random))), writable: 0 }
}

function statistics(random: Random): Uint8Array {
  const count = random.below(random.oneIn(8) ? 200 : 12)
  const view = new DataView(new ArrayBuffer(10 * count))
  for (let i = 0; i < count; i++) {
    view.setUint16(10 * i, random.oneIn(6) ? random.edge() : random.below(12), true)
    view.setBigUint64(10 * i + 2, random.edge64(), true)
  }
  return new Uint8Array(view.buffer)
}

/** A page that is given away reads as zeroes, and its neighbours as before. */
async function probe(rig: DeviceRig): Promise<void> {
  const at = FIRST_PAGE + 4
  rig.memory.write((at - 1) * BALLOON_PAGE_SIZE, new Uint8Array(3 * BALLOON_PAGE_SIZE).fill(0xa5))
  const number = words([at])
  rig.post(INFLATE_QUEUE, [{ at: BUFFERS, length: number.length, writable: false, bytes: number }])
  rig.kick(INFLATE_QUEUE)
  await rig.used(INFLATE_QUEUE)
  const first = [at - 1, at, at + 1].map(one => rig.read(one * BALLOON_PAGE_SIZE, 1)[0])
  deepStrictEqual(first, [0xa5, 0, 0xa5])
}

fuzzDevice({
  name: "balloon",
  covers: ["packages/virtio-devices/src/balloon"],
  share: 0.03,
  queues: 5,
  chain: balloonChain,
  make() {
    balloon = new BalloonDevice({ deflateOnOom: true, reporting: true, hinting: true })
    return { ...rigFor(balloon), host }
  },
  probe,
})
