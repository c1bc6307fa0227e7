import { BUFFERS, BUFFERS_END, type Negotiated, type Piece } from "./device-rig.js"
import { type RawDescriptor, randomDescriptor } from "./guest-ram.js"
import { join, mutate, type Random } from "./random.js"

/** What driver and transport do in turn. */
export type DeviceStep =
  | {
      readonly do: "chain"
      readonly queue: number
      readonly pieces: readonly Piece[]
      readonly indirectAt: number
    }
  | { readonly do: "raw"; readonly queue: number; readonly slot: number; readonly descriptor: RawDescriptor }
  | { readonly do: "kick"; readonly queue: number }
  | { readonly do: "turn" | "reset" }
  | { readonly do: "config"; readonly offset: number; readonly bytes: Uint8Array }
  /** The host's side of the device does something of its own. */
  | { readonly do: "host"; readonly what: number }
  /** Buffers change while the device may be at work on them. */
  | { readonly do: "scribble"; readonly at: number; readonly bytes: Uint8Array }

/** One life of a device with one driver. */
export interface DeviceCase {
  readonly negotiated: Negotiated
  /** Device feature bits that the driver takes. */
  readonly features: bigint
  readonly steps: readonly DeviceStep[]
}

/** Makes an almost honest chain for a device. */
export type ChainMaker = (random: Random) => {
  readonly queue: number
  readonly readable: Uint8Array
  readonly writable: number
}

/** Steps around the chains that `make` makes: cut up in odd ways, now and then wrong. */
export function randomDeviceCase(random: Random, queues: number, make: ChainMaker): DeviceCase {
  const negotiated = { packed: random.oneIn(3), indirect: !random.oneIn(4), eventIdx: random.oneIn(2) }
  const features = random.oneIn(2) ? (1n << 24n) - 1n : BigInt(random.u32())
  const steps = random.list(random.between(2, 16), () => randomStep(random, queues, make, negotiated))
  return {
    negotiated,
    features,
    steps: [...steps, ...random.list(queues, queue => ({ do: "kick", queue }) as const)],
  }
}

function randomStep(random: Random, queues: number, make: ChainMaker, negotiated: Negotiated): DeviceStep {
  const queue = random.oneIn(20) ? random.below(300) : random.below(queues)
  switch (random.below(14)) {
    case 0:
      return { do: "raw", queue, slot: random.below(64), descriptor: randomDescriptor(random, 0, 2, []) }
    case 1:
      return { do: "turn" }
    case 2:
      return random.oneIn(4) ? { do: "reset" } : { do: "turn" }
    case 3:
      return {
        do: "config",
        offset: random.oneIn(2) ? random.edge() : random.below(64),
        bytes: random.bytes(random.below(16)),
      }
    case 4:
      return {
        do: "scribble",
        at: random.between(BUFFERS, BUFFERS_END),
        bytes: random.bytes(random.between(1, 64)),
      }
    case 5:
      return { do: "host", what: random.u32() }
    case 6:
    case 7:
      return { do: "kick", queue }
    default: {
      const indirect = negotiated.indirect && random.oneIn(3)
      return chainStep(random, make, indirect ? 0x8000 + 16 * random.below(0x100) : -1)
    }
  }
}

function chainStep(random: Random, make: ChainMaker, indirectAt: number): DeviceStep {
  const { queue, readable, writable } = make(random)
  let pieces = [
    ...cut(random, mutated(random, readable), false),
    ...cut(random, new Uint8Array(writable), true),
  ]
  if (random.oneIn(12)) pieces = damaged(random, pieces)
  return { do: "chain", queue, pieces, indirectAt }
}

function mutated(random: Random, bytes: Uint8Array): Uint8Array {
  return random.oneIn(6) ? mutate(random, bytes) : bytes
}

/** `bytes` in one to four pieces somewhere among the buffers, some of them empty. */
function cut(random: Random, bytes: Uint8Array, writable: boolean): Piece[] {
  const pieces: Piece[] = []
  let rest = bytes
  for (let left = random.below(4); left > 0 && rest.length > 0; left--) {
    const length = random.oneIn(8)
      ? 0
      : Math.min(rest.length, random.between(1, random.pick([1, 16, 512, 5000])))
    pieces.push(place(random, rest.subarray(0, length), writable))
    rest = rest.subarray(length)
  }
  if (rest.length > 0) pieces.push(place(random, rest, writable))
  return pieces
}

function place(random: Random, bytes: Uint8Array, writable: boolean): Piece {
  const at = random.between(BUFFERS, Math.max(BUFFERS, BUFFERS_END - bytes.length))
  return { at, length: bytes.length, writable, bytes: writable ? new Uint8Array() : bytes }
}

function damaged(random: Random, pieces: readonly Piece[]): Piece[] {
  const result = [...pieces]
  const at = random.below(Math.max(1, result.length))
  const piece = result[at]
  if (!piece) return result
  switch (random.below(5)) {
    case 0:
      result.splice(at, 1)
      break
    case 1:
      result[at] = { ...piece, writable: !piece.writable }
      break
    case 2:
      result[at] = { ...piece, length: random.edge() }
      break
    case 3:
      result[at] = { ...piece, at: random.oneIn(2) ? BUFFERS_END - random.below(64) : random.edge() }
      break
    default:
      // Over the rings themselves.
      result[at] = { ...piece, at: 0x1_0000 + random.below(0x1000) }
  }
  return result
}

const BLOCK_TYPES = [0, 0, 0, 1, 1, 1, 4, 8, 11, 13] as const

/** A block request: header, data or ranges, room for data and status. */
export function blockChain(random: Random): ReturnType<ChainMaker> {
  const type = random.oneIn(12) ? random.edge() : random.pick(BLOCK_TYPES)
  const header = new DataView(new ArrayBuffer(16))
  header.setUint32(0, type, true)
  header.setBigUint64(8, random.oneIn(5) ? random.edge64() : BigInt(random.below(8200)), true)
  const data = random.oneIn(5) ? random.below(3000) : 512 * random.between(1, random.pick([1, 8, 64, 256]))
  const out =
    type === 1
      ? random.bytes(Math.min(data, 4096))
      : type === 11 || type === 13
        ? ranges(random)
        : new Uint8Array()
  return {
    queue: 0,
    readable: join(new Uint8Array(header.buffer), out),
    writable: type === 0 ? data + 1 : type === 8 ? random.between(1, 24) : 1,
  }
}

function ranges(random: Random): Uint8Array {
  const count = random.oneIn(8) ? random.below(20) : random.between(1, 4)
  const view = new DataView(new ArrayBuffer(16 * count))
  for (let i = 0; i < count; i++) {
    view.setBigUint64(16 * i, random.oneIn(4) ? random.edge64() : BigInt(random.below(8200)), true)
    view.setUint32(16 * i + 8, random.oneIn(4) ? random.edge() : random.below(64), true)
    view.setUint32(16 * i + 12, random.oneIn(6) ? random.edge() : random.below(2), true)
  }
  return new Uint8Array(view.buffer)
}

/** Room for entropy. */
export function rngChain(random: Random): ReturnType<ChainMaker> {
  const writable = random.oneIn(6) ? 0x2_0000 : random.between(1, 600)
  return { queue: 0, readable: random.oneIn(12) ? random.bytes(8) : new Uint8Array(), writable }
}

/** A packet of the guest, or a buffer for one of the host. */
export function vsockChain(random: Random): ReturnType<ChainMaker> {
  if (random.oneIn(3))
    return {
      queue: random.pick([0, 0, 2]),
      readable: new Uint8Array(),
      writable: random.pick([4, 44, 45, 300, 4096]),
    }
  const payload = random.oneIn(2) ? 0 : random.between(1, 600)
  const view = new DataView(new ArrayBuffer(44))
  view.setBigUint64(0, random.oneIn(12) ? random.edge64() : 3n, true)
  view.setBigUint64(8, random.oneIn(12) ? random.edge64() : 2n, true)
  view.setUint32(16, random.between(1000, 1003), true)
  view.setUint32(20, random.pick([1024, 1024, 9]), true)
  view.setUint32(24, random.oneIn(12) ? random.edge() : payload, true)
  view.setUint16(28, random.oneIn(16) ? random.u32() & 0xffff : 1, true)
  view.setUint16(
    30,
    random.oneIn(16) ? random.u32() & 0xffff : random.pick([1, 1, 2, 3, 4, 5, 5, 5, 6, 7]),
    true,
  )
  view.setUint32(32, random.oneIn(8) ? random.edge() : 0, true)
  view.setUint32(36, random.oneIn(4) ? random.edge() : 65536, true)
  view.setUint32(40, random.oneIn(4) ? random.edge() : 0, true)
  return { queue: 1, readable: join(new Uint8Array(view.buffer), random.bytes(payload)), writable: 0 }
}

/** Output, room for input, or a control message: of a console with two ports. */
export function consoleChain(random: Random): ReturnType<ChainMaker> {
  const queue = random.below(6)
  if (queue % 2 === 0)
    return { queue, readable: new Uint8Array(), writable: random.pick([1, 8, 27, 28, 64, 5000]) }
  if (queue !== 3) return { queue, readable: random.bytes(random.pick([0, 1, 100, 20_000])), writable: 0 }
  const message = new DataView(new ArrayBuffer(8))
  message.setUint32(0, random.oneIn(6) ? random.edge() : random.below(2), true)
  message.setUint16(4, random.oneIn(6) ? random.edge() : random.below(9), true)
  message.setUint16(6, random.oneIn(6) ? random.edge() : random.below(2), true)
  return { queue, readable: new Uint8Array(message.buffer), writable: 0 }
}

/** A frame with its header, room for one, or a command: of a network card with two queue pairs. */
export function netChain(random: Random): ReturnType<ChainMaker> {
  const kind = random.below(5)
  if (kind === 0)
    return {
      queue: random.pick([0, 0, 2]),
      readable: new Uint8Array(),
      writable: random.pick([4, 12, 72, 1526, 5000]),
    }
  if (kind === 1)
    return { queue: random.pick([4, 4, 2]), readable: netCommand(random), writable: random.below(3) }
  return { queue: random.pick([1, 1, 3]), readable: join(netHeader(random), netFrame(random)), writable: 0 }
}

function netCommand(random: Random): Uint8Array {
  const table = () => {
    const count = random.oneIn(6) ? random.edge() : random.below(4)
    const macs = random.bytes(6 * (random.oneIn(6) ? random.below(80) : Math.min(count, 80)))
    return join(new Uint8Array(Uint32Array.of(count).buffer), macs)
  }
  const [kind, command] = [random.oneIn(12) ? random.below(256) : random.below(6), random.below(3)]
  const header = Uint8Array.of(kind, kind === 0 ? random.below(7) : command)
  if (kind === 1 && command === 0) return join(join(header, table()), table())
  return join(header, random.bytes(random.pick([0, 1, 2, 2, 6, 8])))
}

/** Headers that are nearly right for {@link netFrame}. */
function netHeader(random: Random): Uint8Array {
  const view = new DataView(new ArrayBuffer(12))
  view.setUint8(0, random.oneIn(8) ? random.below(256) : random.below(2))
  view.setUint8(1, random.oneIn(8) ? random.below(256) : random.pick([0, 0, 1, 4, 5, 0x81]))
  const fields = [
    random.pick([0, 54, 74]),
    random.pick([1, 500, 1460]),
    random.pick([34, 38, 54]),
    random.pick([6, 16]),
  ]
  for (const [index, value] of fields.entries())
    view.setUint16(2 + 2 * index, (random.oneIn(8) ? random.edge() : value) & 0xffff, true)
  return new Uint8Array(view.buffer)
}

/** TCP or UDP in IPv4 or IPv6, in Ethernet, now and then with a VLAN tag. */
function netFrame(random: Random): Uint8Array {
  const isIpv6 = random.oneIn(2)
  const protocol = random.pick([6, 17])
  const tag = random.oneIn(6) ? Uint8Array.of(0x81, 0, 0, random.below(4)) : new Uint8Array()
  const ip = new Uint8Array(isIpv6 ? 40 : 20)
  ip.set(isIpv6 ? [0x60, 0, 0, 0, 0, 0, protocol] : [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol])
  const transport = new Uint8Array(20 + random.pick([0, 1, 40, 1400, 4000]))
  transport[12] = 0x50
  const ethernet = join(join(random.bytes(12), tag), isIpv6 ? Uint8Array.of(0x86, 0xdd) : Uint8Array.of(8, 0))
  return join(join(ethernet, ip), transport)
}
