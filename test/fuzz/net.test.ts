import { deepStrictEqual, ok, strictEqual } from "node:assert"
import { type FrameSink, NetDevice, type NetPort, type PacketSender } from "@ts-vmm/virtio-devices/net"
import { netChain } from "./device-cases.js"
import { BUFFERS } from "./device-rig.js"
import { type DeviceTarget, fuzzDevice, rigFor } from "./device-target.js"

/** All offloads of virtio 1.3, 5.1.3: CSUM, GUEST_CSUM, TSO4, TSO6, ECN both ways, USO. */
const ALL_OFFLOADS = [0n, 1n, 7n, 8n, 9n, 11n, 12n, 13n, 54n, 55n, 56n].reduce(
  (sum, n) => sum | (1n << n),
  0n,
)
const MTU = 1500

/** What a kernel behind the card may rely on, told by nothing but the specification. */
function checkSentFrame(frame: Uint8Array, header: Uint8Array): void {
  const view = new DataView(header.buffer, header.byteOffset, header.length)
  const [flags, gsoType] = [view.getUint8(0), view.getUint8(1)]
  const [headerLength, gsoSize, start, offset] = [2, 4, 6, 8].map(at => view.getUint16(at, true)) as number[]
  ok(frame.length >= 14 && frame.length <= 65_535 + 18, `a frame of ${frame.length} bytes`)
  ok(gsoType !== 0 || frame.length <= MTU + 18, `a frame of ${frame.length} bytes with nothing to cut`)
  ok((flags & ~1) === 0 && (flags === 1 || gsoType === 0), `flags ${flags} of a frame of type ${gsoType}`)
  if (flags === 0) return
  ok(
    start! >= 14 && start! + offset! + 2 <= frame.length,
    `a checksum at ${start} + ${offset} of ${frame.length}`,
  )
  if (gsoType === 0) return
  ok([1, 4, 5, 0x81, 0x84].includes(gsoType), `segmentation ${gsoType}`)
  ok(gsoSize! > 0 && headerLength! <= frame.length && headerLength! >= start! + 8, "headers to repeat")
  ok((frame.length - headerLength!) / gsoSize! <= 1366, "too many segments")
}

/** A port that checks what it gets, and is full now and then. */
class SuspiciousPort implements NetPort {
  readonly offloads = ALL_OFFLOADS
  readonly queuePairs = 2
  /** Frames that it takes until it is full. */
  room = Number.POSITIVE_INFINITY
  sent = 0
  deliver: FrameSink = () => true
  onRoom: (pair?: number) => void = () => undefined

  attach(...[deliver, onRoom, , deliverPacket]: Parameters<NetPort["attach"]>): void {
    this.onRoom = onRoom
    this.deliver = deliver
    if (!this.packets || !deliverPacket) return
    this.deliver = (frame, header = new Uint8Array(12), pair = 0) =>
      deliverPacket(Buffer.concat([header, frame]), pair)
  }

  send(frame: Uint8Array, header: Uint8Array = new Uint8Array(12), pair = 0): boolean {
    ok(pair === 0 || pair === 1, `queue pair ${pair}`)
    ok(this.#waiting === 0, "a frame overtakes packets")
    if (this.room === 0) return false
    checkSentFrame(frame, header)
    this.room--
    this.sent++
    return true
  }

  #head = new Uint8Array(256)
  /** Packets that were not flushed yet. */
  #waiting = 0

  /** One that takes packets out of the guest's memory: what it checks is what it would send. */
  readonly packets: PacketSender | undefined

  constructor({ takesPackets }: { takesPackets: boolean }) {
    this.packets = takesPackets ? this.#packetSender() : undefined
  }

  #packetSender(): PacketSender {
    return {
      packetHead: () => {
        if (this.room === 0 || this.#waiting === 4) return undefined
        this.#head = new Uint8Array(256)
        return this.#head
      },
      sendPacket: (pair, length, chain) => {
        ok(pair === 0 || pair === 1, `queue pair ${pair}`)
        ok(length === Math.min(256, chain.readableLength), `${length} bytes of a head`)
        const packet = new Uint8Array(chain.readableLength)
        chain.read(0, packet)
        packet.set(this.#head.subarray(0, length))
        checkSentFrame(packet.subarray(12), packet.subarray(0, 12))
        this.#waiting++
        return true
      },
      flushPackets: () => {
        const done = Math.min(this.room, this.#waiting)
        const left = this.#waiting - done
        this.room -= done
        this.sent += done
        this.#waiting = 0
        return left
      },
    }
  }

  setQueuePairs(count: number): void {
    ok(count === 1 || count === 2, `${count} queue pairs`)
  }

  setOffloads(features: bigint): void {
    ok((features & ~ALL_OFFLOADS) === 0n, "offloads that were not offered")
  }

  resume(): void {
    // What waits is delivered by the host's next step.
  }

  close(): void {
    this.room = 0
  }
}

let port: SuspiciousPort

/** A network device's target, whose port takes frames, or packets with their headers. */
const netTarget = (name: string, takesPackets: boolean): DeviceTarget => ({
  name,
  covers: ["packages/virtio-devices/src/net"],
  share: 0.025,
  queues: 5,
  chain: netChain,
  make() {
    port = new SuspiciousPort({ takesPackets })
    const device = new NetDevice(port, { mtu: MTU })
    const host = (what: number) => {
      const size = (what >>> 8) & 0xffff
      const header = (what >>> 7) & 1 ? Uint8Array.of(1, 1, 54, 0, 200, 5, 34, 0, 16, 0, 0, 0) : undefined
      switch (what % 5) {
        case 0:
          port.room = port.room === Number.POSITIVE_INFINITY ? size % 6 : Number.POSITIVE_INFINITY
          if (port.room > 0) for (const pair of [0, 1]) port.onRoom(pair)
          break
        case 1:
          device.setLink(((what >>> 3) & 1) === 1)
          break
        case 2:
          device.announce()
          break
        default:
          port.deliver(new Uint8Array(size).fill(what), header, (what >>> 4) & 1)
      }
    }
    return { ...rigFor(device, () => port.close()), host }
  },
  /** One frame each way, that for the guest with equal bytes. */
  async probe(rig) {
    port.room = Number.POSITIVE_INFINITY
    const before = port.sent
    rig.post(1, [{ at: BUFFERS, length: 72, writable: false, bytes: new Uint8Array(72) }])
    rig.kick(1)
    await rig.used(1)
    strictEqual(port.sent, before + 1)
    const frame = new Uint8Array(60).map((_, i) => (i < 6 ? 0xff : i))
    rig.post(0, [{ at: BUFFERS + 4096, length: 1600, writable: true, bytes: new Uint8Array() }])
    port.deliver(frame)
    strictEqual((await rig.used(0)).length, 12 + frame.length)
    deepStrictEqual(rig.read(BUFFERS + 4096 + 12, frame.length), frame)
  },
})

fuzzDevice(netTarget("net", false))
fuzzDevice(netTarget("net-packets", true))
