import { deepStrictEqual, fail, ok, strictEqual } from "node:assert"
import { setImmediate } from "node:timers/promises"
import { closeFd, receiveMessage, sendMessage, setSendBuffer, socketPair } from "@ts-vmm/native"
import type { PacketSender } from "@ts-vmm/virtio-devices/net"
import { SocketPort } from "@ts-vmm/virtio-devices/net/socket"
import { fuzz } from "./harness.js"
import { join, type Random } from "./random.js"

type Chain = Parameters<PacketSender["sendPacket"]>[2]

const HEADER_SIZE = 12
const HEAD_SIZE = 256
const MAX_FRAME = 65_535 + 18
/** Where frames of the guest lie. */
const GUEST = new Uint8Array(new ArrayBuffer(2 ** 20))
const REGIONS = [{ bytes: GUEST }]
const PATTERN = Uint8Array.from({ length: MAX_FRAME }, (_, i) => i * 7 + (i >> 8))

type Step =
  /** The other end writes, which may be anything. */
  | { readonly do: "arrive"; readonly bytes: Uint8Array }
  /** A frame of the guest, out of its memory in pieces, or copied. */
  | { readonly do: "packet"; readonly length: number; readonly pieces: number }
  | { readonly do: "copy"; readonly length: number }
  | { readonly do: "flush" | "turn" }
  /** The other end reads so many bytes. */
  | { readonly do: "read"; readonly most: number }
  /** The guest has room for so many frames more. */
  | { readonly do: "room"; readonly frames: number }

interface SocketCase {
  readonly steps: readonly Step[]
  /** Of the port's own end. */
  readonly sendBuffer: number
}

const lengthOf = (random: Random) =>
  random.pick([1, 14, 60, 243, 244, 245, 1514, 9000, 65_534, MAX_FRAME, random.between(1, MAX_FRAME)])

function arrival(random: Random): Uint8Array {
  const frames = random.list(random.between(1, 6), () => {
    const length = random.oneIn(12) ? 0 : lengthOf(random)
    const told = random.oneIn(60) ? random.u32() : length
    return prefixed(PATTERN.subarray(0, length), told)
  })
  const bytes = join(...frames)
  return random.oneIn(3) ? bytes.subarray(0, random.between(1, bytes.length)) : bytes
}

function generate(random: Random): SocketCase {
  const steps = random.list(random.between(3, 30), (): Step => {
    switch (random.below(8)) {
      case 0:
      case 1:
        return { do: "arrive", bytes: arrival(random) }
      case 2:
      case 3:
        return { do: "packet", length: lengthOf(random), pieces: random.pick([1, 2, 3, 16, 300]) }
      case 4:
        return { do: "copy", length: lengthOf(random) }
      case 5:
        return { do: "read", most: random.pick([1, 100, 5000, 70_000, 500_000]) }
      case 6:
        return { do: "room", frames: random.between(0, 8) }
      default:
        return { do: random.oneIn(2) ? "flush" : "turn" }
    }
  })
  return { steps, sendBuffer: random.pick([4096, 20_000, 200_000]) }
}

function prefixed(frame: Uint8Array, length = frame.length): Uint8Array {
  const bytes = new Uint8Array(4 + frame.length)
  new DataView(bytes.buffer).setUint32(0, length)
  bytes.set(frame, 4)
  return bytes
}

/** The frames that a byte stream holds, as far as they are whole; told bit by bit. */
class Reader {
  readonly frames: Uint8Array[] = []
  /** A length that no frame has: nothing behind it counts. */
  isBroken = false
  #rest: Uint8Array = new Uint8Array()

  add(bytes: Uint8Array): void {
    this.#rest = join(this.#rest, bytes)
    while (this.#rest.length >= 4 && !this.isBroken) {
      const length = new DataView(this.#rest.buffer, this.#rest.byteOffset).getUint32(0)
      this.isBroken = length > MAX_FRAME
      if (this.isBroken || this.#rest.length < 4 + length) return
      if (length > 0) this.frames.push(this.#rest.slice(4, 4 + length))
      this.#rest = this.#rest.slice(4 + length)
    }
  }
}

/** A chain of `packet`, which begins at the start of guest memory, in pieces. */
function chainOf(packet: Uint8Array, pieces: number): Chain {
  GUEST.set(packet)
  const size = Math.ceil(packet.length / pieces)
  const count = Math.ceil(packet.length / size)
  const each = <T>(make: (i: number) => T) => Array.from({ length: count }, (_, i) => make(i))
  const chain = {
    readableLength: packet.length,
    readableCount: count,
    segmentOffsets: each(i => i * size),
    segmentLengths: each(i => Math.min(size, packet.length - i * size)),
    segmentRegions: each(() => 0),
    regions: REGIONS,
  }
  return chain as unknown as Chain
}

/** A port, its guest, who sends as the device does, and the other end. */
class Cable {
  /** What the other end wrote, and what it read. */
  readonly written = new Reader()
  readonly read = new Reader()
  readonly delivered: Uint8Array[] = []
  /** What the port took, in order. */
  readonly sent: Uint8Array[] = []
  room = 0
  error: Error | undefined
  readonly port: SocketPort
  readonly #peer: number
  readonly #lent: Uint8Array[] = []
  readonly #buffer = new Uint8Array(500_000)

  constructor(sendBuffer: number) {
    const [ours, theirs] = socketPair()
    setSendBuffer(ours, sendBuffer)
    this.#peer = theirs
    this.port = new SocketPort(ours, { onEnd: error => this.#ended(error) })
    this.port.attach(
      () => fail("it has packets"),
      () => undefined,
      undefined,
      packet => this.#deliver(packet),
    )
  }

  #ended(error: Error | undefined): void {
    ok(this.error === undefined, "it ended twice")
    ok(error, "it ended without a reason")
    this.error = error
  }

  #deliver(packet: Uint8Array): boolean {
    if (this.room === 0) return false
    this.room--
    ok(
      packet.subarray(0, HEADER_SIZE).every(byte => byte === 0),
      "a header that is not empty",
    )
    packet[10] = 1 // as a device does
    this.delivered.push(packet.slice(HEADER_SIZE))
    return true
  }

  arrive(bytes: Uint8Array): void {
    if (this.error) return
    const length = sendMessage(this.#peer, bytes) ?? 0
    this.written.add(bytes.subarray(0, length))
  }

  /** @returns false when there is no room */
  packet(frame: Uint8Array, pieces: number): boolean {
    const packet = join(new Uint8Array(HEADER_SIZE), frame)
    const chain = chainOf(packet, pieces)
    const head = this.port.packetHead(0, chain) ?? (this.flush() ? this.port.packetHead(0, chain) : undefined)
    if (!head) return false
    strictEqual(head.length, HEAD_SIZE)
    const length = Math.min(HEAD_SIZE, packet.length)
    head.set(packet.subarray(0, length))
    if (this.port.sendPacket(0, length, chain)) this.#lent.push(frame)
    // The next one takes its place in guest memory.
    this.flush()
    return true
  }

  copy(frame: Uint8Array): void {
    if (this.flush() && this.port.send(frame)) this.sent.push(frame)
  }

  /** @returns false when not all could go; that comes to nothing here, where a device would send it anew */
  flush(): boolean {
    const left = this.port.flushPackets()
    this.sent.push(...this.#lent.splice(0, this.#lent.length - left))
    this.#lent.length = 0
    return left === 0
  }

  take(most: number): number {
    const into = this.#buffer.subarray(0, most)
    const got = receiveMessage(this.#peer, into)
    if (got) this.read.add(into.slice(0, got.length))
    return got?.length ?? 0
  }

  /** All that is on its way arrives. */
  async settle(): Promise<void> {
    this.room = Number.POSITIVE_INFINITY
    this.port.resume()
    const isThere = () =>
      this.delivered.length === this.written.frames.length && this.read.frames.length >= this.sent.length
    while (!this.error && (this.written.isBroken || !isThere())) {
      await setImmediate()
      this.take(this.#buffer.length)
    }
  }

  close(): void {
    this.port.close()
    closeFd(this.#peer)
  }
}

async function perform(cable: Cable, step: Step): Promise<void> {
  switch (step.do) {
    case "arrive":
      return cable.arrive(step.bytes)
    case "packet":
      cable.packet(PATTERN.subarray(0, step.length), step.pieces)
      return
    case "copy":
      return cable.copy(PATTERN.subarray(0, step.length))
    case "read":
      cable.take(step.most)
      return
    case "room":
      cable.room += step.frames
      cable.port.resume()
      return
    case "flush":
      cable.flush()
      return
    case "turn":
      await setImmediate()
  }
}

fuzz<SocketCase>({
  name: "net-socket",
  covers: ["packages/virtio-devices/src/net"],
  share: 0.02,
  generate,
  async run({ steps, sendBuffer }) {
    const cable = new Cable(sendBuffer)
    try {
      for (const step of steps) await perform(cable, step)
      await cable.settle()
      strictEqual(cable.error !== undefined, cable.written.isBroken, cable.error?.message)
      deepStrictEqual(cable.delivered, cable.written.frames)
      ok(!cable.read.isBroken, "what it sends is out of step")
      // What was on its way when it ended is lost.
      const sent = cable.error ? cable.sent.slice(0, cable.read.frames.length) : cable.sent
      deepStrictEqual(cable.read.frames, sent)
    } finally {
      cable.close()
    }
  },
})
