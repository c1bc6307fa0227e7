import { strictEqual } from "node:assert"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { MemDevice } from "@ts-vmm/virtio-devices/mem"
import { PmemDevice } from "@ts-vmm/virtio-devices/pmem"
import type { ChainMaker } from "./device-cases.js"
import { BUFFERS } from "./device-rig.js"
import { fuzzDevice, rigFor } from "./device-target.js"
import type { Random } from "./random.js"

const PAGE = 4096
const REGION = 2 ** 27
const BLOCK = 2 ** 21

/** Requests about blocks inside and outside of the region, which starts at 0. */
function memChain(random: Random): ReturnType<ChainMaker> {
  const view = new DataView(new ArrayBuffer(24))
  view.setUint16(0, random.oneIn(12) ? random.below(0x1_0000) : random.below(4), true)
  const addr = random.oneIn(8) ? random.u32() * 2 ** 22 : random.below(REGION / BLOCK + 2) * BLOCK
  view.setBigUint64(8, BigInt(addr), true)
  view.setUint16(16, random.oneIn(8) ? random.below(0x1_0000) : random.below(8), true)
  return { queue: 0, readable: new Uint8Array(view.buffer), writable: random.pick([10, 10, 10, 0, 9, 64]) }
}

fuzzDevice({
  name: "mem",
  covers: ["packages/virtio-devices/src/mem"],
  share: 0.03,
  queues: 1,
  chain: memChain,
  make() {
    const device = new MemDevice({
      regionSize: REGION,
      onPlugged: () => strictEqual(device.pluggedSize >= 0 && device.pluggedSize <= REGION, true, "plugged"),
    })
    device.deviceMemory.placedAt(0)
    return { ...rigFor(device), host: what => device.setRequestedSize((what % (REGION / BLOCK)) * BLOCK) }
  },
  /** STATE of the last block. */
  async probe(rig) {
    const request = new DataView(new ArrayBuffer(24))
    request.setUint16(0, 3, true)
    request.setBigUint64(8, BigInt(REGION - BLOCK), true)
    request.setUint16(16, 1, true)
    rig.post(0, [
      { at: BUFFERS, length: 24, writable: false, bytes: new Uint8Array(request.buffer) },
      { at: BUFFERS + 64, length: 10, writable: true, bytes: new Uint8Array(10).fill(0xff) },
    ])
    rig.kick(0)
    strictEqual((await rig.used(0)).length, 10)
    strictEqual(Buffer.from(rig.read(BUFFERS + 64, 2)).readUInt16LE(), 0, "type")
  },
})

/** Mostly flushes. */
function pmemChain(random: Random): ReturnType<ChainMaker> {
  const readable = random.oneIn(4) ? random.bytes(random.below(9)) : new Uint8Array(4)
  return { queue: 0, readable, writable: random.pick([4, 4, 4, 0, 3, 64]) }
}

fuzzDevice({
  name: "pmem",
  covers: ["packages/virtio-devices/src/pmem"],
  share: 0.03,
  queues: 1,
  chain: pmemChain,
  make() {
    const folder = mkdtempSync(join(tmpdir(), "tsv-fuzz-"))
    const path = join(folder, "file")
    writeFileSync(path, new Uint8Array(PAGE).fill(0x5a))
    const device = new PmemDevice([{ path, size: PAGE }], { readOnly: true })
    return rigFor(device, () => {
      device.close()
      strictEqual(
        readFileSync(path).every(byte => byte === 0x5a),
        true,
        "a file that nobody wrote to changed",
      )
      rmSync(folder, { recursive: true })
    })
  },
  async probe(rig) {
    rig.post(0, [
      { at: BUFFERS, length: 4, writable: false, bytes: new Uint8Array(4) },
      { at: BUFFERS + 64, length: 4, writable: true, bytes: new Uint8Array(4).fill(0xff) },
    ])
    rig.kick(0)
    strictEqual((await rig.used(0)).length, 4)
    strictEqual(Buffer.from(rig.read(BUFFERS + 64, 4)).readUInt32LE(), 0, "ret")
  },
})
