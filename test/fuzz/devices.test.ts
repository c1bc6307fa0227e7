import { deepStrictEqual, ok, strictEqual } from "node:assert"
import { createHash } from "node:crypto"
import { setImmediate } from "node:timers/promises"
import { BlockDevice, type MemoryBackend, memoryBackend } from "@ts-vmm/virtio-devices/block"
import { ConsoleDevice } from "@ts-vmm/virtio-devices/console"
import { NetDevice, type NetPort } from "@ts-vmm/virtio-devices/net"
import { RngDevice } from "@ts-vmm/virtio-devices/rng"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import { VsockDevice, VsockError } from "@ts-vmm/vsock"
import {
  blockChain,
  type ChainMaker,
  consoleChain,
  type DeviceCase,
  type DeviceStep,
  netChain,
  randomDeviceCase,
  rngChain,
  vsockChain,
} from "./device-cases.js"
import { BUFFERS, DeviceRig, type Negotiated } from "./device-rig.js"
import { fuzz } from "./harness.js"

const HONEST: Negotiated = { packed: false, indirect: true, eventIdx: false }
const DISK_SIZE = 4 * 2 ** 20

/** A device, chains for it, and what must still work after the worst of drivers. */
interface DeviceTarget {
  readonly name: string
  readonly share: number
  readonly queues: number
  readonly chain: ChainMaker
  make(): { rig: DeviceRig; close(): void; host?(what: number): void }
  /** An honest driver's request. */
  probe(rig: DeviceRig): Promise<void>
  /** Faults besides broken rings that a guest may bring about. */
  mayFail?(reason: Error): boolean
}

function fuzzDevice(target: DeviceTarget): void {
  let made: ReturnType<DeviceTarget["make"]>
  fuzz<DeviceCase>({
    name: target.name,
    share: target.share,
    setUp() {
      made = target.make()
    },
    tearDown() {
      made.rig.runtime.reset()
      made.close()
      made.rig.memory.close()
    },
    generate: random => randomDeviceCase(random, target.queues, target.chain),
    async run({ negotiated, features, steps }) {
      const { rig } = made
      rig.start(negotiated, features)
      for (const step of steps) {
        if (step.do === "host") made.host?.(step.what)
        else await perform(rig, step, negotiated, features)
        rig.checkFault(target.mayFail)
      }
      await setImmediate()
      rig.checkFault(target.mayFail)
      rig.start(HONEST)
      await target.probe(rig)
      ok(rig.runtime.broken === undefined, "honest driver broke the device")
    },
  })
}

async function perform(
  rig: DeviceRig,
  step: Exclude<DeviceStep, { do: "host" }>,
  negotiated: Negotiated,
  features: bigint,
): Promise<void> {
  switch (step.do) {
    case "chain":
      rig.post(step.queue, step.pieces, step.indirectAt < 0 ? undefined : step.indirectAt)
      return
    case "raw":
      return rig.postRaw(step.queue, step.slot, step.descriptor)
    case "kick":
      return rig.kick(step.queue)
    case "turn":
      await setImmediate()
      return
    case "reset":
      return rig.start(negotiated, features)
    case "config":
      rig.device.writeConfig?.(step.offset, step.bytes)
      return rig.device.readConfig?.(step.offset, new Uint8Array(step.bytes.length))
    case "scribble":
      rig.memory.write(Math.min(step.at, 0x4_ff00), step.bytes)
  }
}

function rigFor(device: ConstructorParameters<typeof DeviceRig>[0], close: () => void = () => undefined) {
  const memory: MappedMemory = DeviceRig.memory()
  return { rig: new DeviceRig(device, memory), close }
}

/** GET_ID: header, 20 bytes, status. */
async function probeBlock(rig: DeviceRig): Promise<void> {
  const header = Uint8Array.of(8, ...new Uint8Array(15))
  rig.post(0, [
    { at: BUFFERS, length: 16, writable: false, bytes: header },
    { at: BUFFERS + 64, length: 21, writable: true, bytes: new Uint8Array(21).fill(0xff) },
  ])
  rig.kick(0)
  await rig.used(0)
  strictEqual(Buffer.from(rig.read(BUFFERS + 64, 5)).toString(), "fuzz\0")
  strictEqual(rig.read(BUFFERS + 84, 1)[0], 0, "status")
}

function fuzzBlock(name: string, share: number, readOnly: boolean): void {
  let disk: MemoryBackend
  const digest = () => createHash("sha256").update(disk.bytes).digest("hex")
  fuzzDevice({
    name,
    share,
    queues: 1,
    chain: blockChain,
    make() {
      disk = memoryBackend(DISK_SIZE, { readOnly })
      const before = digest()
      return rigFor(new BlockDevice(disk, { serial: "fuzz" }), () => {
        if (readOnly) strictEqual(digest(), before, "a read-only disk was written")
        disk.close()
      })
    },
    probe: probeBlock,
  })
}

fuzzBlock("block", 0.05, false)
fuzzBlock("block-read-only", 0.04, true)

fuzzDevice({
  name: "rng",
  share: 0.03,
  queues: 1,
  chain: rngChain,
  make: () => rigFor(new RngDevice()),
  async probe(rig) {
    rig.post(0, [{ at: BUFFERS, length: 48, writable: true, bytes: new Uint8Array(48) }])
    rig.kick(0)
    strictEqual((await rig.used(0)).length, 48)
    ok(
      rig.read(BUFFERS, 48).some(byte => byte !== 0),
      "no entropy",
    )
  },
})

fuzzDevice({
  name: "vsock-chains",
  share: 0.05,
  queues: 3,
  chain: vsockChain,
  make() {
    const device = new VsockDevice({ guestCid: 3, maxConnections: 4, bufAlloc: 1024 })
    device.listen(1024, stream => stream.on("error", () => undefined).resume())
    return rigFor(device, () => device.close())
  },
  mayFail: reason => reason instanceof VsockError && reason.code === "protocol-violation",
  /** A request to a port that nobody listens on is answered by an RST. */
  async probe(rig) {
    const request = new DataView(new ArrayBuffer(44))
    request.setUint32(0, 3, true)
    request.setUint32(8, 2, true)
    request.setUint32(16, 5, true)
    request.setUint32(20, 6, true)
    request.setUint32(28, (1 << 16) | 1, true)
    rig.post(0, [{ at: BUFFERS, length: 64, writable: true, bytes: new Uint8Array() }])
    rig.post(1, [{ at: BUFFERS + 0x100, length: 44, writable: false, bytes: new Uint8Array(request.buffer) }])
    rig.kick(1)
    strictEqual((await rig.used(0)).length, 44)
    const answer = new DataView(rig.read(BUFFERS, 44).buffer)
    deepStrictEqual(
      [answer.getUint32(16, true), answer.getUint32(20, true), answer.getUint16(30, true)],
      [6, 5, 3],
    )
  },
})

const CONSOLE_BUFFER = 4096

fuzzDevice({
  name: "console",
  share: 0.03,
  queues: 6,
  chain: consoleChain,
  make() {
    const ports = [{ bufferSize: CONSOLE_BUFFER }, { name: "agent", bufferSize: CONSOLE_BUFFER }]
    const device = new ConsoleDevice({ ports })
    const host = (what: number) => {
      const port = device.ports[what & 1]!
      const size = (what >>> 8) & 0x1fff
      switch ((what >>> 1) % 5) {
        case 0:
          port.send(new Uint8Array(size))
          break
        case 1:
          port.resize({ cols: size, rows: 25 })
          break
        case 2:
          port.attach({ write: bytes => bytes.length % 2 === 0 })
          break
        case 3:
          port.detach()
          break
        default:
          port.resume()
      }
      ok(port.pendingInput <= CONSOLE_BUFFER, "input without bound")
    }
    return { ...rigFor(device), host }
  },
  /** Output is taken whether or not somebody listens. */
  async probe(rig) {
    rig.post(1, [{ at: BUFFERS, length: 5, writable: false, bytes: new Uint8Array(5) }])
    rig.kick(1)
    await rig.used(1)
  },
})

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
  isFull = false
  sent = 0
  deliver: Parameters<NetPort["attach"]>[0] = () => true
  onRoom: (pair?: number) => void = () => undefined

  attach(...[deliver, onRoom]: Parameters<NetPort["attach"]>): void {
    this.deliver = deliver
    this.onRoom = onRoom
  }

  send(frame: Uint8Array, header: Uint8Array = new Uint8Array(12), pair = 0): boolean {
    ok(pair === 0 || pair === 1, `queue pair ${pair}`)
    if (this.isFull) return false
    checkSentFrame(frame, header)
    this.sent++
    return true
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
    this.isFull = true
  }
}

let port: SuspiciousPort

fuzzDevice({
  name: "net",
  share: 0.05,
  queues: 5,
  chain: netChain,
  make() {
    port = new SuspiciousPort()
    const device = new NetDevice(port, { mtu: MTU })
    const host = (what: number) => {
      const size = (what >>> 8) & 0xffff
      const header = (what >>> 7) & 1 ? Uint8Array.of(1, 1, 54, 0, 200, 5, 34, 0, 16, 0, 0, 0) : undefined
      switch (what % 5) {
        case 0:
          port.isFull = !port.isFull
          if (!port.isFull) for (const pair of [0, 1]) port.onRoom(pair)
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
  async probe(rig) {
    port.isFull = false
    const before = port.sent
    rig.post(1, [{ at: BUFFERS, length: 72, writable: false, bytes: new Uint8Array(72) }])
    rig.kick(1)
    await rig.used(1)
    strictEqual(port.sent, before + 1)
  },
})
