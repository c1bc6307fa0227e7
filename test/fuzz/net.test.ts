import { deepStrictEqual, ok, strictEqual } from "node:assert"
import { type FrameSink, NetDevice, type NetPort } from "@ts-vmm/virtio-devices/net"
import { BUFFERS, type DeviceRig } from "./device-rig.js"
import { fuzzDevice, rigFor } from "./device-target.js"
import { join, type Random } from "./random.js"

const MTU = 1500
const HEADER_SIZE = 12
const ETHERNET_HEADER_SIZE = 14
const RECEIVE_QUEUE = 0
const TRANSMIT_QUEUE = 1

/** A cable's other end that is full when it is told to be; holds one frame for the guest at most. */
class MoodyPort implements NetPort {
  #deliver: FrameSink = () => true
  #onRoom: () => void = () => undefined
  #full = false
  #held: Uint8Array | undefined
  /** The last frame of the guest. */
  last: Uint8Array | undefined

  attach(deliver: FrameSink, onRoom: () => void): void {
    this.#deliver = deliver
    this.#onRoom = onRoom
  }

  send(frame: Uint8Array): boolean {
    ok(frame.length >= ETHERNET_HEADER_SIZE, "a frame without a header")
    ok(frame.length <= MTU + ETHERNET_HEADER_SIZE, "a frame longer than the MTU allows")
    if (!this.#full) this.last = frame.slice()
    return !this.#full
  }

  resume(): void {
    const frame = this.#held
    if (frame && this.#deliver(frame)) this.#held = undefined
  }

  close(): void {
    this.#held = undefined
  }

  /** A frame for the guest; lost when one waits already. */
  arrive(frame: Uint8Array): void {
    if (!this.#held && !this.#deliver(frame)) this.#held = frame
  }

  setFull(isFull: boolean): void {
    this.#full = isFull
    if (!isFull) this.#onRoom()
  }
}

let port: MoodyPort
let device: NetDevice

function host(what: number): void {
  const size = (what >>> 8) & 0x7ff
  const flag = (what & 4) !== 0
  const doings = [
    () => port.arrive(new Uint8Array(ETHERNET_HEADER_SIZE + size)),
    () => port.setFull(flag),
    () => device.setLink(flag),
    // More than fits the MTU, and less than a header.
    () => port.arrive(new Uint8Array(flag ? MTU + ETHERNET_HEADER_SIZE + 1 + size : size & 15)),
  ]
  doings[what & 3]?.()
}

/** A frame with its header, or room for one. */
function netChain(random: Random) {
  if (random.oneIn(3)) {
    const writable = random.pick([1, 11, 12, 13, 64, 600, 1526, 1526, 4096])
    return { queue: RECEIVE_QUEUE, readable: new Uint8Array(), writable }
  }
  const header = random.oneIn(6) ? random.bytes(HEADER_SIZE) : new Uint8Array(HEADER_SIZE)
  const length = random.oneIn(6)
    ? random.pick([0, 13, 14, MTU + 14, MTU + 15, 20_000])
    : random.between(14, 300)
  return { queue: TRANSMIT_QUEUE, readable: join(header, random.bytes(length)), writable: 0 }
}

/** One frame each way, with equal bytes. */
async function probe(rig: DeviceRig): Promise<void> {
  port.close()
  port.setFull(false)
  const frame = new Uint8Array(60).map((_, i) => i)
  const sent = join(new Uint8Array(HEADER_SIZE), frame)
  rig.post(TRANSMIT_QUEUE, [{ at: BUFFERS, length: sent.length, writable: false, bytes: sent }])
  rig.kick(TRANSMIT_QUEUE)
  await rig.used(TRANSMIT_QUEUE)
  deepStrictEqual(port.last, frame)
  rig.post(RECEIVE_QUEUE, [{ at: BUFFERS + 4096, length: 1526, writable: true, bytes: new Uint8Array() }])
  port.arrive(frame)
  strictEqual((await rig.used(RECEIVE_QUEUE)).length, HEADER_SIZE + frame.length)
  deepStrictEqual(rig.read(BUFFERS + 4096 + HEADER_SIZE, frame.length), frame)
}

fuzzDevice({
  name: "net",
  covers: ["packages/virtio-devices/src/net"],
  share: 0.03,
  queues: 2,
  chain: netChain,
  make() {
    port = new MoodyPort()
    device = new NetDevice(port, { mac: "02:00:00:00:00:01", mtu: MTU })
    return { ...rigFor(device), host }
  },
  probe,
})
