import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setImmediate } from "node:timers/promises"
import { closeFd, Mapping, receiveMessage, sendMessage, socketPair } from "@ts-vmm/native"
import { afterEach, describe, expect, test } from "vitest"
import * as block from "../block/defs.js"
import { BlockDevice } from "../block/device.js"
import { openFileBackend } from "../block/file-backend.js"
import { memoryBackend } from "../block/memory-backend.js"
import { requestHeader } from "../block/testing.js"
import { RngDevice } from "../rng/device.js"
import { MockDriver } from "../testing/mock-driver.js"
import * as defs from "./defs.js"
import type { VhostUserError } from "./errors.js"
import { VhostUserFrontend } from "./frontend.js"
import * as message from "./message.js"
import { overVhostUser, type VhostUserPort } from "./over-vhost-user.js"
import { settledFds } from "./raw-peer.js"

const closers: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** Long enough for an answer that comes, whatever else this machine has to do. */
const PATIENCE_MS = 20_000

/** A back end that answers the first request with `bytes`. */
function liar(bytes: Uint8Array, fds: readonly number[] = [], timeoutMs = PATIENCE_MS) {
  const [ours, theirs] = socketPair()
  const frontend = VhostUserFrontend.connect({ fd: ours }, { timeoutMs })
  closers.push(() => closeFd(theirs))
  if (bytes.length > 0) sendMessage(theirs, bytes, fds)
  return frontend.then(
    () => undefined,
    (error: VhostUserError) => error.code,
  )
}

const reply = (request: number, payload: Uint8Array, flags = defs.VHOST_USER_REPLY_MASK) =>
  message.encodeMessage(request, flags, payload)

describe("H7: a back end that answers wrongly", () => {
  test.each([
    ["never", new Uint8Array(0), "timeout"],
    ["half", reply(1, message.encodeU64(0n)).subarray(0, 15), "timeout"],
    ["another request", reply(2, message.encodeU64(0n)), "protocol"],
    ["without the reply flag", reply(1, message.encodeU64(0n), 0), "protocol"],
    ["with reserved flags", reply(1, message.encodeU64(0n), 0x44), "protocol"],
    ["too long", reply(1, new Uint8Array(9)), "protocol"],
    ["too short", reply(1, new Uint8Array(7)), "protocol"],
    ["4 GiB", Uint8Array.from([1, 0, 0, 0, 5, 0, 0, 0, 255, 255, 255, 255]), "protocol"],
  ])("%s", async (_, bytes, code) => {
    expect(await liar(bytes, [], code === "timeout" ? 60 : PATIENCE_MS)).toBe(code)
  })

  test("fds that come with any answer are closed", async () => {
    using ram = Mapping.create({ name: "x", size: 4096 })
    const before = await settledFds()
    expect(await liar(reply(2, message.encodeU64(0n)), [ram.fd, ram.fd])).toBe("protocol")
    for (const close of closers.splice(0)) await close()
    expect(await settledFds()).toBe(before)
  })

  test("an answer that nobody waits for ends the session, and every later call fails at once", async () => {
    const driver = await MockDriver.attach(new RngDevice(), overVhostUser)
    closers.push(() => driver[Symbol.asyncDispose]())
    const [ours, theirs] = socketPair()
    closers.push(() => closeFd(theirs))
    let ended: VhostUserError | undefined
    const connecting = VhostUserFrontend.connect(
      { fd: ours },
      { onEnded: error => (ended = error), timeoutMs: PATIENCE_MS },
    )
    sendMessage(theirs, reply(1, message.encodeU64(0n)))
    const frontend = await untilOwned(connecting, theirs)
    sendMessage(theirs, reply(1, message.encodeU64(0n)))
    await settledFds()
    expect(ended?.code).toBe("protocol")
    await expect(frontend.sync()).rejects.toThrow(expect.objectContaining({ code: "protocol" }))
  })
})

/** Without protocol features there is one answer only: to GET_FEATURES. */
async function untilOwned(
  connecting: Promise<VhostUserFrontend>,
  theirs: number,
): Promise<VhostUserFrontend> {
  const frontend = await connecting
  receiveMessage(theirs, new Uint8Array(256))
  return frontend
}

test("an answer that came while this process was kept busy is in time, however long that took", async () => {
  const [ours, theirs] = socketPair()
  closers.push(() => closeFd(theirs))
  // Here timers have their turn before sockets.
  await setImmediate()
  const connecting = VhostUserFrontend.connect({ fd: ours }, { timeoutMs: 10 })
  sendMessage(theirs, reply(1, message.encodeU64(0n)))
  for (const end = performance.now() + 30; performance.now() < end; );
  const frontend = await connecting
  expect(frontend.closed).toBe(false)
  frontend.close()
})

describe("H9: a back end that scribbles", () => {
  test("over the rings and raises interrupts without end does nothing to the front end", async () => {
    const driver = await MockDriver.attach(new RngDevice(), overVhostUser)
    closers.push(() => driver[Symbol.asyncDispose]())
    const region = driver.memory.regions.at(-1)!
    for (let round = 0; round < 20; round++) {
      region.bytes.fill((round * 37) & 0xff, 0, 4096)
      driver.port.kick(0)
      await driver.port.settle()
    }
    expect((driver.port as VhostUserPort).frontend.closed).toBe(false)
    await driver.reset()
    const buffer = driver.writable(16)
    expect((await driver.send(0, [buffer])).length).toBe(16)
  })
})

describe.each([0, 1, 2])("front end of a device with %i threads", threads => {
  async function attach(sectors = 128) {
    const disk = memoryBackend(sectors * 512)
    closers.push(() => disk.close())
    disk.bytes.forEach((_, i) => {
      disk.bytes[i] = (i >> 9) & 0xff
    })
    const driver = await MockDriver.attach(new BlockDevice(disk, { queues: 2, threads }), overVhostUser)
    const port = driver.port as VhostUserPort
    closers.push(() => port.server.ended())
    closers.push(() => driver[Symbol.asyncDispose]())
    return { driver, port, frontend: port.frontend, disk }
  }

  const read = async (driver: MockDriver, sector: number) => {
    const data = driver.writable(512)
    await driver.send(0, [
      driver.readable(requestHeader(block.VIRTIO_BLK_T_IN, sector)),
      data,
      driver.writable(1),
    ])
    return data.bytes()[0]
  }

  test("a ring that was stopped goes on where it was", async () => {
    const { driver, frontend } = await attach()
    for (let i = 0; i < 5; i++) expect(await read(driver, i)).toBe(i)
    expect(await frontend.stopRing(1)).toBe(0)
    await frontend.setEnabled(0, false)
    driver.post(0, [
      driver.readable(requestHeader(block.VIRTIO_BLK_T_IN, 7)),
      driver.writable(512),
      driver.writable(1),
    ])
    driver.port.kick(0)
    await driver.port.settle()
    expect(driver.queue(0).poll()).toBeUndefined()
    await frontend.setEnabled(0, true)
    expect((await driver.nextUsed(0)).length).toBe(513)
    expect(await frontend.stopRing(0)).toBe(6)
  })

  test("status is kept, and 0 resets the device", async () => {
    const { driver, frontend, port } = await attach()
    await frontend.setStatus(15)
    expect(await frontend.status()).toBe(15)
    await frontend.setStatus(0)
    expect(await frontend.status()).toBe(0)
    expect(port.server.counters.resets).toBe(threads || 1)
    await driver.reset()
    expect(await read(driver, 3)).toBe(3)
  })

  test("memory can be added and taken away while rings run", async () => {
    const { driver, frontend } = await attach()
    using more = Mapping.create({ name: "more", size: 1 << 16 })
    const region = { guestAddress: 2 ** 33, size: 1 << 16, userAddress: 0x1000_0000n, fd: more.fd }
    await frontend.addMemoryRegion(region)
    expect(await read(driver, 9)).toBe(9)
    const data = {
      address: 2 ** 33 + 512,
      length: 512,
      writable: true,
      bytes: () => new Uint8Array(more.buffer, 512, 512),
    }
    await driver.send(0, [
      driver.readable(requestHeader(block.VIRTIO_BLK_T_IN, 11)),
      data,
      driver.writable(1),
    ])
    expect(data.bytes()[0]).toBe(11)
    await frontend.removeMemoryRegion(region)
    expect(await read(driver, 12)).toBe(12)
    await expect(frontend.removeMemoryRegion(region)).rejects.toThrow(
      expect.objectContaining({ code: "refused" }),
    )
  })

  test("with logging on, every page the device writes is marked, and none otherwise", async () => {
    const { driver, frontend } = await attach()
    using log = Mapping.create({ name: "log", size: 4096 * 40 })
    const bits = new Uint8Array(log.buffer)
    const marked = (address: number) =>
      (bits[Math.floor(address / 4096 / 8)]! >> (Math.floor(address / 4096) % 8)) & 1
    await frontend.setLog(log.fd, log.size)
    expect(await read(driver, 1)).toBe(1)
    expect(bits.every(byte => byte === 0)).toBe(true)
    await frontend.setFeatures(driver.features, true)
    const data = driver.writable(512, driver.alloc(512, 4096))
    const untouched = driver.alloc(4096, 4096)
    await driver.send(0, [driver.readable(requestHeader(block.VIRTIO_BLK_T_IN, 2)), data, driver.writable(1)])
    expect(marked(data.address)).toBe(1)
    expect(marked(untouched)).toBe(0)
    await frontend.setFeatures(driver.features, false)
    bits.fill(0)
    expect(await read(driver, 4)).toBe(4)
    expect(bits.every(byte => byte === 0)).toBe(true)
  })

  test("a ring without a call fd is served, one without a kick fd is polled", async () => {
    const { driver, frontend } = await attach()
    await frontend.setCall(0, undefined)
    expect(await read(driver, 5)).toBe(5)
    await frontend.setKick(0, undefined)
    driver
      .queue(0)
      .post([
        driver.readable(requestHeader(block.VIRTIO_BLK_T_IN, 6)),
        driver.writable(512),
        driver.writable(1),
      ])
    expect((await driver.nextUsed(0)).length).toBe(513)
  })

  test("H5: GET_VRING_BASE under load answers when all that was taken has completed", async () => {
    const folder = mkdtempSync(join(tmpdir(), "frontend-"))
    closers.push(() => rmSync(folder, { recursive: true }))
    const path = join(folder, "disk.img")
    writeFileSync(path, new Uint8Array(8 << 20))
    const disk = openFileBackend(path)
    closers.push(() => disk.close())
    const device = new BlockDevice(disk, { threads: Math.min(threads, 1) })
    const driver = await MockDriver.attach(device, overVhostUser, { queueSizes: [64] })
    const { frontend, server } = driver.port as VhostUserPort
    closers.push(() => server.ended())
    closers.push(() => driver[Symbol.asyncDispose]())
    // Over 1 MiB: not done at once but in the thread pool.
    const data = driver.readable(new Uint8Array((1 << 20) + 512).fill(7))
    for (let i = 0; i < 6; i++) {
      driver
        .queue(0)
        .post([driver.readable(requestHeader(block.VIRTIO_BLK_T_OUT, i * 2049)), data, driver.writable(1)])
    }
    driver.port.kick(0)
    await driver.until(() => device.counters.writes > 0, "the first request to be taken")
    const base = await frontend.stopRing(0)
    expect(driver.memory.loadU16(driver.queue(0).config.device + 2)).toBe(base)
    expect(base).toBeGreaterThan(0)
  })

  test("a session leaves no fd behind", async () => {
    const before = await settledFds()
    const { driver } = await attach()
    expect(await read(driver, 1)).toBe(1)
    for (const close of closers.splice(0).reverse()) await close()
    expect(await settledFds()).toBe(before)
    expect(readFileSync("/proc/self/maps", "utf8").match(/memfd:guest-/g)).toBeNull()
  })
})
