import { ok, strictEqual } from "node:assert"
import { setImmediate } from "node:timers/promises"
import { VsockDevice, VsockError, type VsockHeader, type VsockStream } from "@ts-vmm/vsock"
import { DeviceRig } from "./device-rig.js"
import { fuzz } from "./harness.js"
import type { Random } from "./random.js"
import { GUEST_CID, OP, VsockGuest } from "./vsock-guest.js"

type Step =
  | {
      readonly do: "send"
      readonly header: Partial<VsockHeader>
      readonly payload: number
      /** Which host port: a listener's, or that of the n-th last connection of the host. */
      readonly to: number
      /** Say truthfully what was consumed. */
      readonly honest: boolean
    }
  | { readonly do: "offer"; readonly count: number; readonly size: number }
  | { readonly do: "turn" | "receive" | "connect" | "transport-reset" | "driver-reset" }
  /** What the host does with its n-th stream. */
  | {
      readonly do: "write" | "end" | "destroy" | "pause" | "resume"
      readonly which: number
      readonly size: number
    }

interface VsockCase {
  readonly bufAlloc: number
  readonly steps: readonly Step[]
}

const MAX_CONNECTIONS = 6
const READER_PORT = 1024
const IDLE_PORT = 1025
const ECHO_PORT = 1026
const NEGOTIATED = { packed: false, indirect: false, eventIdx: false }

function generate(random: Random): VsockCase {
  const flood = random.oneIn(12)
  const steps = random.list(random.between(4, 40), () => (flood ? floodStep(random) : randomStep(random)))
  return {
    bufAlloc: random.pick([1, 64, 1024, 65536]),
    steps: [{ do: "offer", count: 12, size: 4096 }, ...steps],
  }
}

/** Many requests or tiny packets in a row. */
function floodStep(random: Random): Step {
  const header = {
    op: random.pick([OP.request, OP.rw, OP.rw, OP.creditRequest]),
    srcPort: 1000 + random.below(random.pick([2, 500])),
  }
  return {
    do: "send",
    header,
    payload: header.op === OP.rw ? 1 : 0,
    to: random.pick([READER_PORT, IDLE_PORT]),
    honest: true,
  }
}

function randomStep(random: Random): Step {
  const which = random.below(4)
  switch (random.below(20)) {
    case 0:
      return { do: "connect" }
    case 1:
      return { do: "write", which, size: random.pick([1, 100, 5000, 70_000]) }
    case 2:
      return { do: random.pick(["end", "destroy", "pause", "resume"] as const), which, size: 0 }
    case 3:
    case 4:
      return { do: "turn" }
    case 5:
      return { do: "receive" }
    case 6:
    case 7:
      return { do: "offer", count: random.between(1, 12), size: random.pick([45, 46, 300, 4096]) }
    case 8:
      return { do: random.oneIn(3) ? random.pick(["transport-reset", "driver-reset"] as const) : "turn" }
    default:
      return packet(random)
  }
}

function packet(random: Random): Step {
  const op = random.oneIn(20) ? random.u32() & 0xffff : random.pick([1, 1, 2, 2, 3, 4, 5, 5, 5, 5, 6, 7])
  const header: Partial<VsockHeader> = { op, srcPort: 1000 + random.below(4) }
  const payload = op === OP.rw ? random.pick([0, 1, 20, 900, 1900]) : 0
  if (op === OP.shutdown) header.flags = random.below(4)
  if (random.oneIn(3)) header.bufAlloc = random.oneIn(2) ? random.edge() : random.below(200)
  const honest = !random.oneIn(4)
  if (!honest) header.fwdCnt = random.edge()
  switch (random.below(40)) {
    case 0:
      header.srcCid = Number(random.edge64() & 0x1f_ffff_ffff_ffffn)
      break
    case 1:
      header.dstCid = Number(random.edge64() & 0x1f_ffff_ffff_ffffn)
      break
    case 2:
      header.type = random.u32() & 0xffff
      break
    case 3:
      header.len = random.edge()
      break
    case 4:
      header.flags = random.edge()
      break
    case 5:
      header.srcPort = random.edge()
  }
  return {
    do: "send",
    header,
    payload,
    to: random.pick([READER_PORT, IDLE_PORT, ECHO_PORT, ECHO_PORT, 9, -1, -1, -2]),
    honest,
  }
}

/** A device with a host that does all sorts of things, and its guest. */
class Host {
  readonly device: VsockDevice
  readonly rig: DeviceRig
  guest: VsockGuest
  readonly #streams: VsockStream[] = []
  readonly #abort = new AbortController()

  constructor(bufAlloc: number) {
    this.device = new VsockDevice({ guestCid: GUEST_CID, maxConnections: MAX_CONNECTIONS, bufAlloc })
    this.rig = new DeviceRig(this.device, memory)
    this.guest = new VsockGuest(this.rig)
    this.device.listen(READER_PORT, stream => this.#keep(stream).resume())
    this.device.listen(IDLE_PORT, stream => this.#keep(stream))
    this.device.listen(ECHO_PORT, stream => this.#keep(stream).pipe(stream))
    this.rig.start(NEGOTIATED)
  }

  async step(step: Step): Promise<void> {
    switch (step.do) {
      case "send":
        this.#send(step)
        break
      case "offer":
        this.guest.offer(step.count, step.size)
        break
      case "turn":
        await setImmediate()
        break
      case "receive":
        this.guest.receive()
        break
      case "connect":
        this.#connect()
        break
      case "transport-reset":
        this.device.resetTransport()
        break
      case "driver-reset":
        this.guest.receive()
        this.rig.runtime.reset()
        ok(this.device.connectionCount === 0, "connections after a reset")
        this.rig.start(NEGOTIATED)
        this.guest = new VsockGuest(this.rig)
        break
      default:
        this.#use(step.do, this.#streams[step.which], step.size)
    }
    ok(this.device.connectionCount <= MAX_CONNECTIONS, `${this.device.connectionCount} connections`)
    this.rig.checkFault(reason => reason instanceof VsockError && reason.code === "protocol-violation")
  }

  async end(): Promise<void> {
    await setImmediate()
    this.guest.receive()
    this.#abort.abort()
    this.device.close()
    await setImmediate()
    this.rig.runtime.reset()
    strictEqual(this.device.connectionCount, 0)
    // What arrived is kept for a reader until it is read, also after the end.
    for (const stream of this.#streams) stream.resume()
    for (let i = 0; i < 4; i++) await setImmediate()
    for (const stream of this.#streams) ok(stream.destroyed, "a stream outlives its device")
  }

  #send({ header, payload, to, honest }: Step & { do: "send" }): void {
    const dstPort = to >= 0 ? to : (this.guest.hostPorts.at(to) ?? READER_PORT)
    const fwdCnt = honest ? this.guest.consume(dstPort, header.srcPort ?? 0) : (header.fwdCnt ?? 0)
    this.guest.send({ ...header, dstPort, fwdCnt }, new Uint8Array(payload))
  }

  #connect(): void {
    const options = { timeoutMs: 5000, signal: this.#abort.signal }
    this.device.connect(1000 + (this.#streams.length % 4), options).then(
      stream => this.#keep(stream).resume(),
      (error: unknown) => {
        if (!(error instanceof VsockError)) throw error
      },
    )
  }

  #keep(stream: VsockStream): VsockStream {
    this.#streams.push(stream)
    stream.on("error", error => {
      if (
        !(error instanceof VsockError) &&
        (error as NodeJS.ErrnoException).code !== "ERR_STREAM_WRITE_AFTER_END"
      )
        throw error
    })
    return stream
  }

  #use(
    what: "write" | "end" | "destroy" | "pause" | "resume",
    stream: VsockStream | undefined,
    size: number,
  ): void {
    if (!stream) return
    if (what !== "write") stream[what]()
    else if (!stream.writableEnded && !stream.destroyed) stream.write(new Uint8Array(size))
  }
}

const memory = DeviceRig.memory()

fuzz<VsockCase>({
  name: "vsock",
  covers: ["packages/vsock/src"],
  share: 0.08,
  generate,
  async run({ bufAlloc, steps }) {
    const host = new Host(bufAlloc)
    for (const step of steps) await host.step(step)
    await host.end()
  },
})
