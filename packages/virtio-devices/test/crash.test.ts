import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { closeSync, mkdtempSync, openSync, readSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import { closeFd, eventFd, Mapping, signal } from "@ts-vmm/native"
import { VIRTIO_F_VERSION_1 } from "@ts-vmm/virtio-devices"
import * as block from "@ts-vmm/virtio-devices/block"
import { SplitDriver } from "@ts-vmm/virtio-devices/testing"
import { type InflightArea, VhostUserFrontend } from "@ts-vmm/virtio-devices/vhost-user"
import { RegionTable } from "@ts-vmm/vm-memory"
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest"
import { type Bundle, bundle } from "./bundle.js"

const RAM_SIZE = 4 << 20
const QUEUE_SIZE = 128
const RING = { size: QUEUE_SIZE, desc: 0, driver: 0x2000, device: 0x4000 }
const FEATURES = VIRTIO_F_VERSION_1 | block.VIRTIO_BLK_F_FLUSH
const CHUNK = 4096
/** What a busy machine's disk needs for a flush, now and then. */
const PATIENCE_MS = 30_000

let child: Bundle
beforeAll(async () => {
  child = await bundle(new URL("./serve-block.ts", import.meta.url))
}, 180_000)
afterAll(() => child[Symbol.dispose]())

const closers: (() => void)[] = []
afterEach(() => {
  for (const close of closers.splice(0).reverse()) close()
})

/** Starts a back end in a process of its own. */
async function startBackend(image: string, socketPath: string, threads: number): Promise<ChildProcess> {
  rmSync(socketPath, { force: true })
  const backend = spawn(process.execPath, [child.program, image, socketPath, `${threads}`], {
    stdio: ["ignore", "pipe", "inherit"],
  })
  closers.push(() => backend.kill("SIGKILL"))
  await once(backend.stdout!, "data")
  return backend
}

async function kill(backend: ChildProcess): Promise<void> {
  const exit = once(backend, "exit")
  backend.kill("SIGKILL")
  await exit
}

/** A guest's memory and its driver, which outlive back ends. */
class Guest {
  readonly ram = Mapping.create({ name: "ram", size: RAM_SIZE })
  readonly memory = new RegionTable([{ start: 0, bytes: new Uint8Array(this.ram.buffer) }])
  readonly driver = new SplitDriver(this.memory, RING, FEATURES)
  readonly kick = eventFd()
  readonly done = new Map<number, number>()
  frontend: VhostUserFrontend | undefined
  readonly #statusOf = new Map<number, number>()
  #heap = 0x10000

  disconnect(): void {
    this.frontend?.close()
  }

  close(): void {
    this.disconnect()
    closeFd(this.kick)
    this.ram.close()
  }

  async connect(socketPath: string, inflight?: { area: InflightArea; fd: number }) {
    const frontend = await VhostUserFrontend.connect({ socketPath })
    this.frontend = frontend
    await frontend.setFeatures(FEATURES)
    const kept = inflight ?? (await frontend.createInflight(1, QUEUE_SIZE))
    await frontend.setInflight(kept.area, kept.fd)
    await frontend.setMemoryTable([{ guestAddress: 0, size: RAM_SIZE, userAddress: 0n, fd: this.ram.fd }])
    await frontend.startRing(0, {
      size: QUEUE_SIZE,
      desc: BigInt(RING.desc),
      avail: BigInt(RING.driver),
      used: BigInt(RING.device),
      base: this.memory.loadU16(RING.device + 2),
      kickFd: this.kick,
    })
    return kept
  }

  /** Posts a request. @returns its id */
  post(type: number, sector: number, data?: Uint8Array): number {
    const header = new DataView(new ArrayBuffer(16))
    header.setUint32(0, type, true)
    header.setBigUint64(8, BigInt(sector), true)
    const status = this.#place(Uint8Array.of(0xee), true)
    const parts = [this.#place(new Uint8Array(header.buffer), false)]
    if (data) parts.push(this.#place(data, false))
    const id = this.driver.post([...parts, status])
    this.#statusOf.set(id, status.address)
    signal(this.kick)
    return id
  }

  /** Takes what came back. */
  collect(): void {
    for (let used = this.driver.poll(); used; used = this.driver.poll()) {
      expect(this.done.has(used.id)).toBe(false)
      const status = new Uint8Array(1)
      this.memory.read(this.#statusOf.get(used.id)!, status)
      this.done.set(used.id, status[0]!)
    }
  }

  async until(count: number): Promise<void> {
    for (const end = performance.now() + PATIENCE_MS; this.done.size < count && performance.now() < end; ) {
      this.collect()
      if (this.done.size < count) await setTimeout(2)
    }
    expect(this.done.size).toBe(count)
  }

  #place(bytes: Uint8Array, writable: boolean) {
    const address = this.#heap
    this.#heap += Math.ceil(bytes.length / 16) * 16
    this.memory.write(address, bytes)
    return { address, length: bytes.length, writable, bytes: () => bytes }
  }
}

function setUp() {
  const folder = mkdtempSync(join(tmpdir(), "crash-"))
  closers.push(() => rmSync(folder, { recursive: true, force: true }))
  const image = join(folder, "disk.img")
  writeFileSync(image, "")
  truncateSync(image, 4 << 20)
  const guest = new Guest()
  closers.push(() => guest.close())
  return { image, socketPath: join(folder, "s"), guest }
}

function onDisk(image: string, at: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  const fd = openSync(image, "r")
  readSync(fd, bytes, 0, length, at)
  closeSync(fd)
  return bytes
}

const chunk = (seed: number) => new Uint8Array(CHUNK).fill(seed + 1)

describe.each([0, 1])("with %i threads", threads => {
  test("B10: what was flushed is there after the back end was killed", { timeout: 120_000 }, async () => {
    const { image, socketPath, guest } = setUp()
    const backend = await startBackend(image, socketPath, threads)
    const { fd } = await guest.connect(socketPath)
    closers.push(() => closeFd(fd))
    for (let i = 0; i < 16; i++) guest.post(block.VIRTIO_BLK_T_OUT, i * 8, chunk(i))
    await guest.until(16)
    const flush = guest.post(block.VIRTIO_BLK_T_FLUSH, 0)
    guest.done.clear()
    await guest.until(1)
    expect(guest.done.get(flush)).toBe(block.VIRTIO_BLK_S_OK)
    await kill(backend)
    for (let i = 0; i < 16; i++) expect(onDisk(image, i * CHUNK, CHUNK)).toEqual(chunk(i))
  })

  test("H8: a back end killed under load is replaced, and every request completes once", {
    timeout: 240_000,
  }, async () => {
    const { image, socketPath, guest } = setUp()
    let backend = await startBackend(image, socketPath, threads)
    const kept = await guest.connect(socketPath)
    closers.push(() => closeFd(kept.fd))
    let posted = 0
    for (let round = 0; round < 3; round++) {
      guest.done.clear()
      const ids = Array.from({ length: 24 }, () =>
        guest.post(block.VIRTIO_BLK_T_OUT, posted * 8, chunk(posted++)),
      )
      ids.push(guest.post(block.VIRTIO_BLK_T_FLUSH, 0))
      // Some were taken, some were not, some are done: whatever the moment happens to be.
      await setTimeout(round)
      await kill(backend)
      backend = await startBackend(image, socketPath, threads)
      await guest.connect(socketPath, kept)
      await guest.until(ids.length)
      for (const id of ids) expect(guest.done.get(id)).toBe(block.VIRTIO_BLK_S_OK)
    }
    for (let i = 0; i < posted; i++) expect(onDisk(image, i * CHUNK, CHUNK)).toEqual(chunk(i))
  })

  test("H8: a corrupt in-flight log breaks the ring at most, never the back end", {
    timeout: 120_000,
  }, async () => {
    const { image, socketPath, guest } = setUp()
    const backend = await startBackend(image, socketPath, threads)
    const kept = await guest.connect(socketPath)
    closers.push(() => closeFd(kept.fd))
    using log = Mapping.map({ fd: kept.fd, offset: 0, size: Number(kept.area.mmapSize) })
    for (const byte of [0xff, 0x01, 0x80]) {
      guest.disconnect()
      // Everything but the first words: version and size still look right.
      new Uint8Array(log.buffer).fill(byte, 12)
      await guest.connect(socketPath, kept)
      await guest.frontend!.resetDevice()
      await guest.frontend!.sync()
    }
    guest.disconnect()
    expect(backend.exitCode).toBeNull()
    const next = new Guest()
    closers.push(() => next.close())
    closeFd((await next.connect(socketPath)).fd)
    next.post(block.VIRTIO_BLK_T_FLUSH, 0)
    await next.until(1)
  })
})
