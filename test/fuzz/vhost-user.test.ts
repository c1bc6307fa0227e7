import { ok, strictEqual } from "node:assert"
import { setImmediate } from "node:timers/promises"
import { socketPair } from "@ts-vmm/native"
import { RngDevice } from "@ts-vmm/virtio-devices/rng"
import * as v from "@ts-vmm/virtio-devices/vhost-user"
import { mappingMemory } from "@ts-vmm/vm-memory/mmap"
import {
  BASE_FEATURES,
  FD_KINDS,
  FdShop,
  type FdSort,
  FrontEnd,
  goodSession,
  honest,
  honestSession,
  PROTOCOL_FEATURES,
  RAM_SIZE,
  type RawMessage,
  RING,
  USER_ADDRESS,
  words,
} from "./front-end.js"
import { type RawDescriptor, randomDescriptor, writeTable } from "./guest-ram.js"
import { fuzz, openFds } from "./harness.js"
import { mutate, type Random } from "./random.js"

interface SessionCase {
  readonly packed: boolean
  /** What stands in ring 0 from the start, and how many chains the driver claims. */
  readonly ring: readonly RawDescriptor[]
  readonly available: number
  readonly messages: readonly RawMessage[]
  /** After this message the peer truncates its memory file; -1 for never. */
  readonly shrinkAfter: number
}

/** One in this many sessions is followed by an honest one. */
const GOOD_EVERY = 16
const REQUESTS = Array.from({ length: 42 }, (_, i) => i)
/** Far longer than the back end waits for anything. */
const CLOSE_MS = 5000
/** Those that take fds, memory or rings. */
const STATEFUL = [
  v.VHOST_USER_SET_MEM_TABLE,
  v.VHOST_USER_SET_MEM_TABLE,
  v.VHOST_USER_ADD_MEM_REG,
  v.VHOST_USER_REM_MEM_REG,
  v.VHOST_USER_SET_LOG_BASE,
  v.VHOST_USER_SET_INFLIGHT_FD,
  v.VHOST_USER_SET_VRING_KICK,
  v.VHOST_USER_SET_VRING_CALL,
  v.VHOST_USER_GET_VRING_BASE,
  v.VHOST_USER_SET_VRING_ENABLE,
  v.VHOST_USER_SET_BACKEND_REQ_FD,
]

function generate(random: Random): SessionCase {
  let messages = random.oneIn(4) ? [] : honestSession().slice(0, random.oneIn(3) ? random.below(13) : 12)
  for (let left = random.between(1, 10); left > 0; left--) {
    messages.splice(
      random.oneIn(2) ? random.below(messages.length + 1) : messages.length,
      0,
      randomMessage(random),
    )
  }
  if (random.oneIn(3))
    messages = messages.map(message => (random.oneIn(6) ? spoil(random, message) : message))
  const ring = random.list(RING.size, i => randomDescriptor(random, i, RING.size, [0x800]))
  const available = random.oneIn(8) ? random.edge() & 0xffff : random.below(8)
  return {
    packed: random.oneIn(4),
    ring,
    available,
    messages,
    shrinkAfter: random.oneIn(5) ? random.below(messages.length) : -1,
  }
}

/** A request with a payload of its shape; REPLY_ACK is asked for half the time. */
function randomMessage(random: Random): RawMessage {
  const request = random.oneIn(20) ? random.edge() : random.pick(random.oneIn(2) ? STATEFUL : REQUESTS)
  const [payload, fds] = shaped(random, request)
  const flags = v.VHOST_USER_VERSION | (random.oneIn(2) ? v.VHOST_USER_NEED_REPLY_MASK : 0)
  return { ...honest(request, payload, fds), flags, turns: random.below(3) }
}

function shaped(random: Random, request: number): [payload: Uint8Array, fds: FdSort[]] {
  const index = random.oneIn(10) ? random.edge() : 0
  const signal = () => random.pick<FdSort>(["eventfd", "pipe", "write-pipe", "socket", "eventfd"])
  switch (request) {
    case v.VHOST_USER_SET_FEATURES:
      return [words(random.oneIn(2) ? random.edge64() : BASE_FEATURES | (BigInt(random.below(2)) << 26n)), []]
    case v.VHOST_USER_SET_PROTOCOL_FEATURES:
      return [words(random.oneIn(4) ? random.edge64() : PROTOCOL_FEATURES & random.edge64()), []]
    case v.VHOST_USER_SET_STATUS:
      return [words(random.oneIn(2) ? BigInt(random.below(16)) : random.edge64()), []]
    case v.VHOST_USER_SET_MEM_TABLE:
      return memoryTable(random)
    case v.VHOST_USER_ADD_MEM_REG:
    case v.VHOST_USER_REM_MEM_REG:
      return [words(0n, ...region(random)), [random.pick(FD_KINDS)].slice(random.oneIn(4) ? 1 : 0)]
    case v.VHOST_USER_SET_VRING_NUM:
      return [words(index, random.oneIn(3) ? random.edge() : random.pick([1, 2, 8, 16, 256])), []]
    case v.VHOST_USER_SET_VRING_BASE:
      return [words(index, random.edge()), []]
    case v.VHOST_USER_GET_VRING_BASE:
      return [words(index, 0), []]
    case v.VHOST_USER_SET_VRING_ENABLE:
      return [words(index, random.oneIn(6) ? random.edge() : random.below(2)), []]
    case v.VHOST_USER_SET_VRING_ADDR:
      return [ringAddresses(random, index), []]
    case v.VHOST_USER_SET_VRING_KICK:
    case v.VHOST_USER_SET_VRING_CALL:
    case v.VHOST_USER_SET_VRING_ERR: {
      const noFd = random.oneIn(5)
      return [words(BigInt(index & 0xff) | (noFd ? 0x100n : 0n)), noFd ? [] : [signal()]]
    }
    case v.VHOST_USER_GET_CONFIG:
    case v.VHOST_USER_SET_CONFIG: {
      const size = random.below(64)
      return [
        words(random.oneIn(3) ? random.edge() : 0, size, 0, ...random.list(size >> 2, () => random.u32())),
        [],
      ]
    }
    case v.VHOST_USER_SET_LOG_BASE:
      return [
        words(random.oneIn(3) ? random.edge64() : 4096n, random.oneIn(3) ? random.edge64() : 0n),
        [random.pick(FD_KINDS)],
      ]
    case v.VHOST_USER_GET_INFLIGHT_FD:
      return [words(random.edge64(), 0n, inflightShape(random), 0), []]
    case v.VHOST_USER_SET_INFLIGHT_FD:
      return [
        words(
          random.oneIn(2) ? BigInt(RAM_SIZE) : random.edge64(),
          random.oneIn(4) ? random.edge64() : 0n,
          inflightShape(random),
          0,
        ),
        [random.pick(FD_KINDS)],
      ]
    case v.VHOST_USER_SET_BACKEND_REQ_FD:
    case v.VHOST_USER_SET_LOG_FD:
      return [new Uint8Array(), [random.oneIn(2) ? "socket" : random.pick(FD_KINDS)]]
    default:
      return [random.oneIn(4) ? random.bytes(random.below(80)) : new Uint8Array(), []]
  }
}

/** Queues in the low half, their size in the high half. */
function inflightShape(random: Random): number {
  return random.oneIn(3) ? random.edge() : 1 | (random.pick([16, 256, 1024]) << 16)
}

function region(random: Random): bigint[] {
  const odd = () => random.oneIn(8)
  return [
    odd() ? random.edge64() : BigInt(RAM_SIZE * random.below(3)),
    odd() ? random.edge64() : BigInt(random.pick([4096, RAM_SIZE])),
    odd() ? random.edge64() : USER_ADDRESS + BigInt(RAM_SIZE * random.below(3)),
    odd() ? random.edge64() : 0n,
  ]
}

function memoryTable(random: Random): [payload: Uint8Array, fds: FdSort[]] {
  const count = random.oneIn(8) ? random.below(10) : random.between(1, 2)
  const fds = random.list(random.oneIn(8) ? random.below(12) : count, () =>
    random.oneIn(3) ? random.pick(FD_KINDS) : random.pick(["memory", "shrinks"] as const),
  )
  return [
    words(random.oneIn(10) ? random.edge() : count, 0, ...random.list(count, () => region(random)).flat()),
    fds,
  ]
}

function ringAddresses(random: Random, index: number): Uint8Array {
  const part = (offset: number) =>
    random.oneIn(6)
      ? random.edge64()
      : USER_ADDRESS + BigInt(offset + (random.oneIn(6) ? random.below(64) : 0))
  return words(index, random.below(2), part(RING.desc), part(RING.device), part(RING.driver), random.edge64())
}

function spoil(random: Random, message: RawMessage): RawMessage {
  switch (random.below(6)) {
    case 0:
      return { ...message, payload: mutate(random, message.payload) }
    case 1:
      return { ...message, flags: random.edge() }
    case 2:
      return { ...message, lie: random.oneIn(2) ? random.between(-8, 8) : random.edge() }
    case 3:
      return { ...message, pieces: random.between(2, 12) }
    case 4:
      return { ...message, fds: random.list(random.pick([0, 1, 2, 8, 9, 33]), () => random.pick(FD_KINDS)) }
    default:
      return { ...message, payload: random.bytes(random.pick([0, 1, 8, 40, 4096, 4108, 4109])) }
  }
}

const device = new RngDevice()

/** @returns once the back end has taken note that the front end is gone */
async function serve(packed: boolean, session: (fd: number) => Promise<void>): Promise<void> {
  const [ours, theirs] = socketPair()
  const server = v.serveVhostUser(device, {
    fd: theirs,
    packed,
    messageTimeoutMs: 100,
    quiesceTimeoutMs: 100,
  })
  const gone = new Promise<void>(resolve => server.on("disconnected", () => resolve()))
  await session(ours)
  await gone
  strictEqual(server.closed, true)
}

async function hostileSession(
  ours: number,
  { packed, ring, available, messages, shrinkAfter }: SessionCase,
): Promise<void> {
  const front = new FrontEnd(ours)
  const shop = new FdShop()
  try {
    const memory = mappingMemory([{ start: 0, mapping: shop.memory }])
    writeTable(memory, { at: RING.desc, entries: ring }, packed)
    memory.storeU16(RING.driver + 2, available)
    for (let i = 0; i < RING.size; i++) memory.storeU16(RING.driver + 4 + 2 * i, i)
    for (const [i, message] of messages.entries()) {
      if (!(await front.send(message, shop))) break
      front.takeAnswers()
      if (i === shrinkAfter) shop.shrink()
    }
    await setImmediate()
    front.takeAnswers()
  } finally {
    front.close()
    shop.close()
  }
}

let sessions = 0

fuzz<SessionCase>({
  name: "vhost-user",
  covers: ["packages/virtio-devices/src/vhost-user"],
  share: 0.12,
  generate,
  async run(input) {
    const before = openFds()
    await serve(input.packed, ours => hostileSession(ours, input))
    if (sessions++ % GOOD_EVERY === 0) await serve(false, goodSession)
    // Handles of libuv close in a turn of their own, and the fds of a message that waits for rings to stop when they have.
    const deadline = performance.now() + CLOSE_MS
    while (openFds() !== before && performance.now() < deadline) await setImmediate()
    const after = openFds()
    ok(after === before, `fds leak: ${after - before}`)
  },
})
