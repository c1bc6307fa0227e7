import { closeSync, openSync } from "node:fs"
import { closeFd, eventFd, type Mapping, pipe, signal } from "@ts-vmm/native"
import { afterEach, describe, expect, test } from "vitest"
import { BlockDevice } from "../block/device.js"
import { memoryBackend } from "../block/memory-backend.js"
import { RngDevice } from "../rng/device.js"
import * as defs from "./defs.js"
import * as message from "./message.js"
import { RAM_USER, RawPeer, regionOf, ringAddress, settledFds, testRam } from "./raw-peer.js"

const closers: (() => void)[] = []
afterEach(() => {
  for (const close of closers.splice(0).reverse()) close()
})

function kept<T extends { close(): void }>(thing: T): T {
  closers.push(() => thing.close())
  return thing
}

function keptFd(fd: number): number {
  closers.push(() => closeFd(fd))
  return fd
}

async function greeted(ram = kept(testRam())): Promise<RawPeer> {
  const peer = kept(new RawPeer(new RngDevice(), { messageTimeoutMs: 100 }))
  await peer.greet()
  await peer.share(ram)
  return peer
}

const state = (index: number, num: number) => message.encodeVringState({ index, num })
const u64 = (value: number) => message.encodeU64(BigInt(value))

describe("H1: header", () => {
  test.each([
    ["an unknown request", message.encodeMessage(99, 0)],
    ["a wrong version", message.encodeMessage(defs.VHOST_USER_GET_FEATURES, 2)],
    ["the reply flag", message.encodeMessage(defs.VHOST_USER_GET_FEATURES, defs.VHOST_USER_REPLY_MASK)],
    ["reserved flags", message.encodeMessage(defs.VHOST_USER_GET_FEATURES, 0x40)],
    ["a payload that does not belong", message.encodeMessage(defs.VHOST_USER_GET_FEATURES, 0, u64(1))],
    ["a payload of 4 GiB", new Uint8Array([25, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255])],
  ])("%s ends the session", async (_, bytes) => {
    const peer = kept(new RawPeer(new RngDevice()))
    peer.write(bytes)
    expect((await peer.hangUp())?.code).toBe("protocol")
    expect(peer.server.counters.protocolErrors).toBe(1)
  })
})

describe("H2: file descriptors", () => {
  test("all fds received are closed on every path that refuses a message", async () => {
    const ram = kept(testRam())
    const before = await settledFds()
    const many = Array.from({ length: 12 }, () => ram.fd)
    const cases: [number, Uint8Array, number[]][] = [
      [defs.VHOST_USER_GET_FEATURES, new Uint8Array(0), [ram.fd]],
      [defs.VHOST_USER_SET_MEM_TABLE, message.encodeMemoryTable([regionOf(ram)]), []],
      [defs.VHOST_USER_SET_MEM_TABLE, message.encodeMemoryTable([regionOf(ram)]), [ram.fd, ram.fd]],
      [defs.VHOST_USER_SET_MEM_TABLE, message.encodeMemoryTable([regionOf(ram)]), many],
      [defs.VHOST_USER_SET_VRING_KICK, u64(0), [ram.fd, ram.fd]],
      [defs.VHOST_USER_SET_VRING_KICK, u64(0), []],
      [defs.VHOST_USER_SET_VRING_CALL, u64(defs.VHOST_USER_VRING_NOFD_MASK), [ram.fd]],
      [defs.VHOST_USER_SET_VRING_CALL, u64(0), [ram.fd]],
      [defs.VHOST_USER_SET_VRING_ERR, u64(0), [ram.fd]],
      [defs.VHOST_USER_SET_VRING_CALL, u64(77), [ram.fd]],
      [defs.VHOST_USER_SET_BACKEND_REQ_FD, new Uint8Array(0), [ram.fd]],
      [defs.VHOST_USER_SET_LOG_BASE, message.encodeLogArea({ size: 0n, offset: 0n }), [ram.fd]],
      [defs.VHOST_USER_SET_LOG_BASE, message.encodeLogArea({ size: 1n << 40n, offset: 0n }), [ram.fd]],
      [
        defs.VHOST_USER_SET_INFLIGHT_FD,
        message.encodeInflight({ mmapSize: 1n, mmapOffset: 0n, numQueues: 1, queueSize: 64 }),
        [ram.fd],
      ],
      [99, new Uint8Array(0), [ram.fd, ram.fd]],
    ]
    for (const [request, payload, fds] of cases) {
      const peer = new RawPeer(new RngDevice())
      await peer.greet()
      peer.send(request, payload, fds)
      expect((await peer.hangUp())?.code).toBe("protocol")
      peer.close()
      expect(await settledFds()).toBe(before)
    }
  })

  test("fds of a memory table that cannot be mapped are closed, and the front end may try again", async () => {
    const ram = kept(testRam())
    const [reader, writer] = pipe()
    keptFd(reader)
    keptFd(writer)
    const peer = kept(new RawPeer(new RngDevice()))
    await peer.greet()
    const before = await settledFds()
    const tooLarge = message.encodeMemoryTable([{ ...regionOf(ram), size: 1n << 30n }])
    expect(await peer.command(defs.VHOST_USER_SET_MEM_TABLE, tooLarge, [ram.fd])).toBe(1n)
    const readOnly = openSync(`/proc/self/fd/${ram.fd}`, "r")
    for (const fd of [reader, readOnly]) {
      const table = message.encodeMemoryTable([regionOf(ram)])
      expect(await peer.command(defs.VHOST_USER_SET_MEM_TABLE, table, [fd])).toBe(1n)
    }
    closeSync(readOnly)
    expect(await settledFds()).toBe(before)
    await peer.share(ram)
  })

  test("a whole session leaves no fd behind, however it ends", async () => {
    const ram = kept(testRam())
    const [kick, call] = [keptFd(eventFd()), keptFd(eventFd())]
    const before = await settledFds()
    for (const end of ["close", "hostile"] as const) {
      const peer = await greetedAlone(ram)
      await peer.startRing(kick, call)
      await peer.command(defs.VHOST_USER_SET_VRING_ERR, u64(0), [call])
      await peer.ask(
        defs.VHOST_USER_GET_INFLIGHT_FD,
        message.encodeInflight({ mmapSize: 0n, mmapOffset: 0n, numQueues: 1, queueSize: 64 }),
      )
      if (end === "hostile") {
        peer.send(99)
        await peer.hangUp()
      }
      peer.close()
      expect(await settledFds()).toBe(before)
    }
  })
})

async function greetedAlone(ram: Mapping): Promise<RawPeer> {
  const peer = new RawPeer(new RngDevice())
  await peer.greet()
  await peer.share(ram)
  return peer
}

describe("H4: order", () => {
  test.each([
    ["SET_MEM_TABLE", defs.VHOST_USER_SET_FEATURES, u64(0)],
    ["SET_VRING_NUM", defs.VHOST_USER_SET_VRING_NUM, state(0, 64)],
    ["GET_VRING_BASE", defs.VHOST_USER_GET_VRING_BASE, state(0, 0)],
    [
      "SET_CONFIG without its feature",
      defs.VHOST_USER_SET_CONFIG,
      message.encodeConfig({ offset: 0, flags: 0, data: new Uint8Array(4) }),
    ],
  ])("%s before SET_OWNER ends the session", async (_, request, payload) => {
    const peer = kept(new RawPeer(new RngDevice()))
    peer.send(request, payload)
    expect((await peer.hangUp())?.code).toBe("protocol")
  })

  test.each([
    ["a ring that is not there", defs.VHOST_USER_SET_VRING_NUM, state(7, 64)],
    ["ring 2^32 - 1", defs.VHOST_USER_SET_VRING_BASE, state(0xffff_ffff, 0)],
    ["enable with 2", defs.VHOST_USER_SET_VRING_ENABLE, state(0, 2)],
    ["an address before a size", defs.VHOST_USER_SET_VRING_ADDR, ringAddress()],
    ["GET_VRING_BASE of a ring that is not there", defs.VHOST_USER_GET_VRING_BASE, state(9, 0)],
  ])("%s ends the session", async (_, request, payload) => {
    const peer = await greeted()
    peer.send(request, payload)
    expect((await peer.hangUp())?.code).toBe("protocol")
  })

  test("enable before an address is remembered and starts nothing, as QEMU needs it", async () => {
    const peer = await greeted()
    expect(await peer.command(defs.VHOST_USER_SET_VRING_ENABLE, state(0, 1))).toBe(0n)
    expect(peer.server.counters.activations).toBe(0)
    await peer.startRing(keptFd(eventFd()), keptFd(eventFd()))
    expect(peer.server.counters.activations).toBe(1)
  })

  test("a kick fd before call and address ends the session", async () => {
    const kick = keptFd(eventFd())
    const peer = await greeted()
    peer.send(defs.VHOST_USER_SET_VRING_KICK, u64(0), [kick])
    expect((await peer.hangUp())?.code).toBe("protocol")
  })

  test("an address before the memory table ends the session", async () => {
    const peer = kept(new RawPeer(new RngDevice()))
    await peer.greet()
    await peer.command(defs.VHOST_USER_SET_VRING_NUM, state(0, 64))
    peer.send(defs.VHOST_USER_SET_VRING_ADDR, ringAddress())
    expect((await peer.hangUp())?.code).toBe("protocol")
  })

  test("protocol features that were not offered end the session, features are refused", async () => {
    const peer = kept(new RawPeer(new RngDevice()))
    await peer.greet()
    expect(await peer.command(defs.VHOST_USER_SET_FEATURES, message.encodeU64(1n << 33n))).toBe(1n)
    expect(await peer.command(defs.VHOST_USER_SET_FEATURES, message.encodeU64(0n))).toBe(1n)
    peer.send(defs.VHOST_USER_SET_PROTOCOL_FEATURES, message.encodeU64(1n << 14n))
    expect((await peer.hangUp())?.code).toBe("protocol")
  })
})

describe("H5: changes under way", () => {
  test("ring addresses outside the memory table, or across its end, are refused", async () => {
    const peer = await greeted()
    await peer.command(defs.VHOST_USER_SET_VRING_NUM, state(0, 64))
    const end = RAM_USER + (1n << 20n)
    for (const over of [
      { desc: 0n },
      { desc: end - 16n },
      { avail: end },
      { used: end - 2n },
      { used: (1n << 64n) - 8n },
    ]) {
      expect(await peer.command(defs.VHOST_USER_SET_VRING_ADDR, ringAddress(over))).toBe(1n)
    }
  })

  test("a ring that is misaligned breaks the device and leaves the session usable", async () => {
    const peer = await greeted()
    const [kick, call] = [keptFd(eventFd()), keptFd(eventFd())]
    await peer.command(defs.VHOST_USER_SET_VRING_CALL, u64(0), [call])
    await peer.command(defs.VHOST_USER_SET_VRING_NUM, state(0, 64))
    await peer.command(defs.VHOST_USER_SET_VRING_ADDR, ringAddress({ desc: RAM_USER + 2n }))
    await peer.command(defs.VHOST_USER_SET_VRING_KICK, u64(0), [kick])
    await peer.command(defs.VHOST_USER_SET_VRING_ENABLE, state(0, 1))
    expect(message.decodeU64(await peer.ask(defs.VHOST_USER_GET_STATUS)) & 64n).toBe(64n)
    expect(await peer.command(defs.VHOST_USER_RESET_DEVICE)).toBe(0n)
    expect(message.decodeU64(await peer.ask(defs.VHOST_USER_GET_STATUS)) & 64n).toBe(0n)
    await peer.startRing(kick, call)
    expect(peer.server.counters.guestFaults).toBe(1)
  })

  test("size, base and address of a ring that runs cannot be changed", async () => {
    for (const [request, payload] of [
      [defs.VHOST_USER_SET_VRING_NUM, state(0, 32)],
      [defs.VHOST_USER_SET_VRING_BASE, state(0, 5)],
      [defs.VHOST_USER_SET_VRING_ADDR, ringAddress({ desc: RAM_USER + 0x4000n })],
    ] as const) {
      const peer = await greeted()
      await peer.startRing(keptFd(eventFd()), keptFd(eventFd()))
      peer.send(request, payload)
      expect((await peer.hangUp())?.code).toBe("protocol")
    }
  })

  test("a new memory table while a ring runs moves the ring; the old memory is let go", async () => {
    const [ram, next] = [kept(testRam()), kept(testRam())]
    const [kick, call] = [keptFd(eventFd()), keptFd(eventFd())]
    const peer = await greeted(ram)
    await peer.startRing(kick, call)
    const before = await settledFds()
    await peer.share(next)
    expect(await settledFds()).toBe(before)
    // One descriptor of 8 writable bytes, posted in the new memory alone.
    const view = new DataView(next.buffer)
    view.setBigUint64(0, 0x8000n, true)
    view.setUint32(8, 8, true)
    view.setUint16(12, 2, true)
    view.setUint16(0x1002, 1, true)
    signal(kick)
    await peer.settle()
    expect(view.getUint16(0x2002, true)).toBe(1)
    expect(view.getBigUint64(0x8000, true)).not.toBe(0n)
  })

  test("a table that does not hold a running ring is refused, and the ring stays stopped", async () => {
    const ram = kept(testRam())
    const small = kept(testRam(4096))
    const peer = await greeted(ram)
    const kick = keptFd(eventFd())
    await peer.startRing(kick, keptFd(eventFd()))
    const table = message.encodeMemoryTable([regionOf(small)])
    expect(await peer.command(defs.VHOST_USER_SET_MEM_TABLE, table, [small.fd])).toBe(1n)
    signal(kick)
    await peer.settle()
    expect(message.decodeVringState(await peer.ask(defs.VHOST_USER_GET_VRING_BASE, state(0, 0))).num).toBe(0)
  })
})

describe("H6: slow and broken senders", () => {
  test("a message that stops half-way times out", async () => {
    const peer = kept(new RawPeer(new RngDevice(), { messageTimeoutMs: 30 }))
    peer.write(message.encodeMessage(defs.VHOST_USER_SET_FEATURES, 0, u64(0)).subarray(0, 7))
    expect((await peer.hangUp())?.code).toBe("timeout")
  })

  test("one byte at a time does not extend the time", async () => {
    const peer = kept(new RawPeer(new RngDevice(), { messageTimeoutMs: 60 }))
    const bytes = message.encodeMessage(defs.VHOST_USER_SET_FEATURES, 0, u64(0))
    const trickle = setInterval(() => peer.write(bytes.subarray(0, 1)), 25)
    closers.push(() => clearInterval(trickle))
    expect((await peer.hangUp())?.code).toMatch(/timeout|protocol/)
  })

  test("a message in single bytes is understood when it comes in time", async () => {
    const peer = kept(new RawPeer(new RngDevice()))
    for (const byte of message.encodeMessage(defs.VHOST_USER_SET_OWNER, 0)) {
      peer.write(Uint8Array.of(byte))
      await peer.settle()
    }
    expect((await peer.ask(defs.VHOST_USER_GET_FEATURES)).length).toBe(8)
  })

  test("fds that come with a later byte of a message end the session and are closed", async () => {
    const ram = kept(testRam())
    const before = await settledFds()
    const peer = new RawPeer(new RngDevice())
    const bytes = message.encodeMessage(defs.VHOST_USER_SET_FEATURES, 0, u64(0))
    peer.write(bytes.subarray(0, 12))
    await peer.settle()
    peer.write(bytes.subarray(12), [ram.fd])
    expect((await peer.hangUp())?.code).toBe("protocol")
    peer.close()
    expect(await settledFds()).toBe(before)
  })

  test("hanging up inside a message is an error, between two it is not", async () => {
    const rude = new RawPeer(new RngDevice())
    rude.write(Uint8Array.of(1, 0))
    await rude.settle()
    let ended: unknown
    rude.server.on("disconnected", error => {
      ended = error?.code
    })
    const server = rude.server
    rude.hangUpFirst()
    while (!server.closed) await rude.settle()
    expect(ended).toBe("disconnected")
    server.close()
  })

  test("a peer that asks without end and reads nothing is thrown out", async () => {
    const peer = kept(new RawPeer(new RngDevice()))
    const flood = message.encodeMessage(defs.VHOST_USER_GET_FEATURES, 0)
    for (let i = 0; i < 20_000 && peer.write(flood); i++) if (i % 50 === 0) await peer.settle()
    expect((await peer.hangUp())?.code).toBe("peer-stalled")
  })
})

describe("H10: configuration space", () => {
  test.each([
    ["offset past the end", { offset: 4096, flags: 0, data: new Uint8Array(4) }],
    ["offset + size past the end", { offset: 4000, flags: 0, data: new Uint8Array(100) }],
    ["offset near 2^32", { offset: 0xffff_fffc, flags: 0, data: new Uint8Array(8) }],
  ])("%s ends the session, for reading and for writing", async (_, access) => {
    for (const request of [defs.VHOST_USER_GET_CONFIG, defs.VHOST_USER_SET_CONFIG]) {
      const peer = kept(new RawPeer(new RngDevice()))
      await peer.greet()
      peer.send(request, message.encodeConfig(access))
      expect((await peer.hangUp())?.code).toBe("protocol")
    }
  })

  test("bytes past the device's own fields read as zero", async () => {
    const disk = kept(memoryBackend(1 << 20))
    const peer = kept(new RawPeer(new BlockDevice(disk)))
    await peer.greet()
    const access = message.encodeConfig({ offset: 0, flags: 0, data: new Uint8Array(256) })
    const { data } = message.decodeConfig(await peer.ask(defs.VHOST_USER_GET_CONFIG, access))
    expect(new DataView(data.buffer).getBigUint64(0, true)).toBe(2048n)
    expect(data.subarray(60).every(byte => byte === 0)).toBe(true)
  })
})
