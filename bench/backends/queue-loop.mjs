// node queue-loop.mjs CHAINS: the device side of a split ring pops chains of three descriptors, walks each and puts it
// on the used ring; through the packages' public surface, as built. Prints nanoseconds per chain, the median of blocks. Its twin in C is
// ../frontend/queue_loop.c.
import { ROOT } from "../../scripts/setup/paths.mjs"

const { arrayBufferMemory } = await import(`${ROOT}/packages/vm-memory/dist/index.js`)
const { createQueue, RING_FEATURES, VIRTIO_F_RING_PACKED } = await import(
  `${ROOT}/packages/virtio-devices/dist/index.js`
)

const QUEUE_SIZE = 256
const PARTS = 3
const IN_RING = Math.floor(QUEUE_SIZE / PARTS) - 1
const BUFFER = 4096
const DESC = 0x1000
const DRIVER = 0x4000
const DEVICE = 0x6000
const BUFFERS = 0x10_0000
const NEXT = 1
const WRITE = 2
const WARM_UP_CHAINS = 300_000
const BLOCK_CHAINS = 20_000

const memory = arrayBufferMemory([{ start: 0, size: 16 * 1024 * 1024 }])
const ring = new DataView(memory.regions[0].bytes.buffer)

for (let index = 0; index < IN_RING * PARTS; index++) {
  const part = index % PARTS
  const at = DESC + index * 16
  ring.setBigUint64(at, BigInt(BUFFERS + index * BUFFER), true)
  ring.setUint32(at + 8, BUFFER, true)
  ring.setUint16(at + 12, (part < PARTS - 1 ? NEXT : 0) | (part > 0 ? WRITE : 0), true)
  ring.setUint16(at + 14, index + 1, true)
}

const features = RING_FEATURES & ~VIRTIO_F_RING_PACKED
const queue = createQueue(memory, { size: QUEUE_SIZE, desc: DESC, driver: DRIVER, device: DEVICE }, features)
let offered = 0
let bytes = 0

function offer() {
  for (let chain = 0; chain < IN_RING; chain++) {
    ring.setUint16(DRIVER + 4 + (offered++ % QUEUE_SIZE) * 2, chain * PARTS, true)
  }
  ring.setUint16(DRIVER + 2, offered, true)
}

/** What a device does with a ring, without the work itself. */
function serve() {
  let served = 0
  let walked = 0 // a variable of the loop: a captured one would cost an allocation each time
  for (let chain = queue.pop(); chain !== undefined; chain = queue.pop()) {
    const { segmentCount, segmentLengths } = chain
    for (let i = 0; i < segmentCount; i++) walked += segmentLengths[i]
    queue.push(chain, chain.writableLength)
    served++
  }
  queue.publish()
  bytes += walked
  return served
}

function play(chains) {
  let nanoseconds = 0n
  let done = 0
  while (done < chains) {
    offer()
    const since = process.hrtime.bigint()
    done += serve()
    nanoseconds += process.hrtime.bigint() - since
  }
  return Number(nanoseconds) / done
}

// Many short blocks and their median: what else the machine does spoils few of them.
const blocks = Math.ceil(Number(process.argv[2]) / BLOCK_CHAINS)
play(WARM_UP_CHAINS)
bytes = 0
const times = Array.from({ length: blocks }, () => play(BLOCK_CHAINS)).sort((a, b) => a - b)
const expected = blocks * Math.ceil(BLOCK_CHAINS / IN_RING) * IN_RING * PARTS * BUFFER
if (bytes !== expected) throw new Error(`walked ${bytes} bytes instead of ${expected}`)
process.stdout.write(`${JSON.stringify({ nsPerChain: times[blocks >> 1], bytes })}\n`)
