import { closeFd, eventFd, Mapping, signal } from "@ts-vmm/native"
import { expect, test } from "vitest"
import { BlockDevice } from "../block/device.js"
import { memoryBackend } from "../block/memory-backend.js"
import { type RandomSource, randomSource } from "../testing/index.js"
import * as defs from "./defs.js"
import * as message from "./message.js"
import { RAM_USER, RawPeer, regionOf, settledFds } from "./raw-peer.js"

const SESSIONS = 800
const MESSAGES = 25
/** Every request of the protocol that this back end has. */
const USUAL = Array.from({ length: 41 }, (_, request) => request).filter(
  request => !message.requestName(request).includes(" "),
)
const WITH_FD: ReadonlySet<number> = new Set([
  defs.VHOST_USER_SET_MEM_TABLE,
  defs.VHOST_USER_ADD_MEM_REG,
  defs.VHOST_USER_SET_LOG_BASE,
  defs.VHOST_USER_SET_LOG_FD,
  defs.VHOST_USER_SET_VRING_KICK,
  defs.VHOST_USER_SET_VRING_CALL,
  defs.VHOST_USER_SET_VRING_ERR,
  defs.VHOST_USER_SET_INFLIGHT_FD,
])

/** Payloads that mean something often enough to get past the first check. */
function payloadFor(request: number, random: RandomSource, ram: Mapping): Uint8Array {
  const index = random(6) === 0 ? random(400) : 0
  switch (request) {
    case defs.VHOST_USER_SET_MEM_TABLE: {
      const region = regionOf(ram)
      return message.encodeMemoryTable([
        random(4) === 0 ? { ...region, size: BigInt(random(2 ** 31)) } : region,
      ])
    }
    case defs.VHOST_USER_ADD_MEM_REG:
    case defs.VHOST_USER_REM_MEM_REG:
      return message.encodeMemoryRegion({ ...regionOf(ram), guestAddress: BigInt(random(3)) << 20n })
    case defs.VHOST_USER_SET_VRING_ADDR: {
      const at = () => RAM_USER + BigInt(random(8) === 0 ? random(2 ** 31) : random(64) * 1024)
      return message.encodeVringAddr({
        index,
        flags: random(2),
        desc: at(),
        avail: at(),
        used: at(),
        log: at(),
      })
    }
    case defs.VHOST_USER_SET_FEATURES:
      return message.encodeU64((1n << 32n) | (1n << 30n) | (BigInt(random(2)) << 26n))
    case defs.VHOST_USER_GET_CONFIG:
    case defs.VHOST_USER_SET_CONFIG:
      return message.encodeConfig({ offset: random(64), flags: 0, data: new Uint8Array(random(80)) })
    case defs.VHOST_USER_GET_INFLIGHT_FD:
    case defs.VHOST_USER_SET_INFLIGHT_FD:
      return message.encodeInflight({
        mmapSize: BigInt(random(8192)),
        mmapOffset: 0n,
        numQueues: random(3),
        queueSize: random(300),
      })
    case defs.VHOST_USER_SET_LOG_BASE:
      return message.encodeLogArea({ size: BigInt(random(8192)), offset: BigInt(random(2) * 4096) })
    case defs.VHOST_USER_GET_FEATURES:
    case defs.VHOST_USER_GET_PROTOCOL_FEATURES:
    case defs.VHOST_USER_GET_QUEUE_NUM:
    case defs.VHOST_USER_GET_STATUS:
    case defs.VHOST_USER_GET_MAX_MEM_SLOTS:
    case defs.VHOST_USER_SET_OWNER:
    case defs.VHOST_USER_RESET_OWNER:
    case defs.VHOST_USER_RESET_DEVICE:
      return new Uint8Array(random(20) === 0 ? random(9) : 0)
    case defs.VHOST_USER_SET_PROTOCOL_FEATURES:
      return message.encodeU64(0x1b22bn)
    default:
      return random(2) === 0
        ? message.encodeVringState({ index, num: [0, 1, 2, 64, 256, 70_000][random(6)]! })
        : message.encodeU64(BigInt(index) | (random(5) === 0 ? 0x100n : 0n))
  }
}

/** As many fds as the request takes, mostly. */
function fdsFor(request: number, random: RandomSource, fds: readonly number[]): number[] {
  const odd = random(15) === 0
  const count = odd ? random(12) : Number(WITH_FD.has(request))
  const memory = request !== defs.VHOST_USER_SET_VRING_KICK && request !== defs.VHOST_USER_SET_VRING_CALL
  return Array.from({ length: count }, () => (odd ? fds[random(fds.length)]! : fds[memory ? 0 : 1]!))
}

function sendRandom(peer: RawPeer, random: RandomSource, ram: Mapping, fds: readonly number[]): boolean {
  const request = random(40) === 0 ? random(2 ** 31) : USUAL[random(USUAL.length)]!
  const flags = random(3) === 0 ? defs.VHOST_USER_NEED_REPLY_MASK : 0
  const bytes = message.encodeMessage(request, flags, payloadFor(request, random, ram))
  if (random(60) === 0) bytes[random(bytes.length)] = random(256)
  return peer.write(
    random(80) === 0 ? bytes.subarray(0, 1 + random(bytes.length)) : bytes,
    fdsFor(request, random, fds),
  )
}

test("random sessions end in nothing worse than a disconnect, and leave nothing behind", {
  timeout: 60_000,
}, async () => {
  const random = randomSource(0x5eed)
  using ram = Mapping.create({ name: "ram", size: 1 << 20 })
  const disk = memoryBackend(1 << 20)
  const device = new BlockDevice(disk, { queues: 2 })
  const fds = [ram.fd, eventFd(), eventFd()]
  const before = await settledFds()
  let activations = 0
  let handled = 0
  for (let session = 0; session < SESSIONS; session++) {
    const peer = new RawPeer(device, { messageTimeoutMs: 20, quiesceTimeoutMs: 20 })
    if (session % 4 !== 0) {
      await peer.greet()
      await peer.share(ram)
    }
    if (session % 4 > 1) await peer.startRing(fds[1]!, fds[2]!)
    // Rings of noise: whatever is started finds something to walk.
    new Uint8Array(ram.buffer).fill(random(256), 0, 65536)
    for (let i = 0; i < MESSAGES && sendRandom(peer, random, ram, fds); i++) {
      signal(fds[1]!)
      if (i % 5 === 0) await peer.settle()
    }
    await peer.settle()
    activations += peer.server.counters.activations
    handled += peer.server.counters.notifications
    peer.close()
  }
  expect(await settledFds()).toBe(before)
  // Random, but not so random that nothing ever starts.
  expect(activations).toBeGreaterThan(SESSIONS / 4)
  expect(handled).toBeGreaterThan(SESSIONS / 4)
  for (const fd of fds.slice(1)) closeFd(fd)
  disk.close()
})
