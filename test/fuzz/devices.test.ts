import { deepStrictEqual, ok, strictEqual } from "node:assert"
import { createHash } from "node:crypto"
import { BlockDevice, type MemoryBackend, memoryBackend } from "@ts-vmm/virtio-devices/block"
import { ConsoleDevice } from "@ts-vmm/virtio-devices/console"
import { RngDevice } from "@ts-vmm/virtio-devices/rng"
import { VsockDevice, VsockError } from "@ts-vmm/vsock"
import { blockChain, consoleChain, rngChain, vsockChain } from "./device-cases.js"
import { BUFFERS, type DeviceRig } from "./device-rig.js"
import { fuzzDevice, rigFor } from "./device-target.js"

const DISK_SIZE = 4 * 2 ** 20

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
