import { afterEach, describe, expect, test } from "vitest"
import { VIRTIO_F_EVENT_IDX } from "../features.js"
import { deviceConformance, direct, MockDriver, overMmio, overVhostUser } from "../testing/index.js"
import * as defs from "./defs.js"
import { NetDevice } from "./index.js"
import { Cable, ipv4Frame, makeHeader, makeRig, PacketCable, ROUTE, TRANSPORT_AT } from "./testing.js"

const [RECEIVE, TRANSMIT] = [0, 1]
const HEADER = new Uint8Array(12)

const frameOf = (length: number, fill = 7) => new Uint8Array(length).fill(fill)
/** Completions outside of a drain are shown to the driver in a microtask. */
const published = () => new Promise(resolve => setImmediate(resolve))
const drivers: MockDriver[] = []
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver[Symbol.asyncDispose]()
})

async function attach(cable: Cable, device = new NetDevice(cable)): Promise<MockDriver> {
  const driver = await MockDriver.attach(device, direct, { queueSizes: [64, 64, 64] })
  drivers.push(driver)
  return driver
}

describe("sending", () => {
  const send = (driver: MockDriver, header: Uint8Array, frame: Uint8Array) =>
    driver.send(TRANSMIT, [driver.readable(header), driver.readable(frame)])

  test("a frame reaches the port without its header", async () => {
    const cable = new Cable()
    const driver = await attach(cable)
    expect((await send(driver, HEADER, frameOf(60))).length).toBe(0)
    expect(cable.sent).toEqual([frameOf(60)])
  })

  test("N1, N2: what is no frame, or asks for an offload, is dropped and counted", async () => {
    const cable = new Cable()
    const device = new NetDevice(cable)
    const driver = await attach(cable, device)
    await send(driver, HEADER.subarray(0, 4), frameOf(2))
    await send(driver, HEADER, frameOf(13))
    await send(driver, HEADER, frameOf(1515))
    await send(driver, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), frameOf(60))
    await send(driver, Uint8Array.of(0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), frameOf(60))
    expect(cable.sent).toEqual([])
    expect(device.counters).toMatchObject({ framesSent: 0, dropped: 5 })
  })

  test("a full port is waited for, in order and without loss", async () => {
    const cable = new Cable()
    cable.room = 2
    const driver = await attach(cable)
    for (let i = 1; i <= 5; i++)
      driver.queue(TRANSMIT).post([driver.readable(HEADER), driver.readable(frameOf(60, i))])
    driver.port.kick(TRANSMIT)
    await driver.until(() => cable.sent.length === 2, "two frames")
    cable.room = 100
    cable.onRoom()
    await driver.until(() => cable.sent.length === 5, "five frames")
    expect(cable.sent.map(frame => frame[0])).toEqual([1, 2, 3, 4, 5])
  })
})

describe("receiving", () => {
  test("a frame is spread over as many buffers as it needs", async () => {
    const cable = new Cable()
    const driver = await attach(cable)
    const buffers = Array.from({ length: 4 }, () => driver.writable(512))
    for (const buffer of buffers) driver.queue(RECEIVE).post([buffer])
    expect(cable.deliver(frameOf(1000))).toBe(true)
    await published()
    const used = [driver.queue(RECEIVE).poll(), driver.queue(RECEIVE).poll()]
    expect(used.map(one => one?.length)).toEqual([512, 500])
    expect((buffers[0] as { bytes(): Uint8Array }).bytes()[10]).toBe(2)
    expect(driver.queue(RECEIVE).poll()).toBeUndefined()
  })

  test("N4: without buffers a frame waits at the port, and sending goes on", async () => {
    const cable = new Cable()
    const driver = await attach(cable)
    for (let i = 0; i < 1000; i++) expect(cable.deliver(frameOf(60))).toBe(false)
    await driver.send(TRANSMIT, [driver.readable(HEADER), driver.readable(frameOf(60))])
    expect(cable.sent).toHaveLength(1)
    driver.queue(RECEIVE).post([driver.writable(2048)])
    driver.port.kick(RECEIVE)
    expect(cable.resumed).toBeGreaterThan(0)
    expect(cable.deliver(frameOf(60))).toBe(true)
  })

  test("N3: buffers that hold no frame come back empty", async () => {
    const cable = new Cable()
    const device = new NetDevice(cable)
    const driver = await attach(cable, device)
    for (let i = 0; i < 64; i++) driver.queue(RECEIVE).post([driver.writable(4)])
    expect(cable.deliver(frameOf(1000))).toBe(true)
    await published()
    for (let i = 0; i < 64; i++) expect(driver.queue(RECEIVE).poll()?.length).toBe(0)
    expect(device.counters.dropped).toBe(1)
  })
})

describe("a port that sends out of the guest's memory", () => {
  const offloads = defs.HOST_OFFLOADS | defs.GUEST_OFFLOADS
  const TSO = {
    flags: 1,
    gsoType: 1,
    gsoSize: 1448,
    headerLength: 54,
    csumStart: TRANSPORT_AT,
    csumOffset: 16,
  }
  const segmented = (size: number) => ipv4Frame(6, [1, 2], frameOf(size, 9), ROUTE)

  test("has the whole packet by the time that the driver has it back", async () => {
    await using rig = await makeRig(new PacketCable({ offloads }))
    const frame = segmented(20_000)
    const parts = [frame.subarray(0, 100), frame.subarray(100, 9000), frame.subarray(9000)]
    const pieces = [makeHeader(TSO), ...parts].map(part => rig.driver.readable(part))
    await rig.driver.send(TRANSMIT, pieces)
    expect(rig.cable.sent).toEqual([frame])
    expect(rig.cable.seen[0]?.header).toEqual(makeHeader(TSO))
    expect(rig.device.counters).toMatchObject({ framesSent: 1, bytesSent: frame.length })
  })

  test.each([false, true])(
    "has what it was lent for itself until it is flushed (packed: %s)",
    async packed => {
      const features = (offered: bigint) => offered & ~VIRTIO_F_EVENT_IDX
      await using rig = await makeRig(new PacketCable({ offloads }), { packed, features })
      const { cable, driver } = rig
      const queue = driver.queue(TRANSMIT)
      // A driver that does nothing at an interrupt is taken for one on another CPU, and shown completions early.
      for (let i = 0; i < 8; i++)
        await driver.send(TRANSMIT, [driver.readable(HEADER), driver.readable(frameOf(60))])
      const before: boolean[] = []
      const flush = cable.flushPackets.bind(cable)
      cable.flushPackets = () => {
        before.push(queue.hasUsed())
        return flush()
      }
      for (let i = 0; i < 20; i++) queue.post([driver.readable(HEADER), driver.readable(frameOf(60))])
      driver.port.kick(TRANSMIT)
      expect(before).toEqual([false])
      for (let i = 0; i < 20; i++) expect((await driver.nextUsed(TRANSMIT)).length).toBe(0)
    },
  )

  test("what there is no room for comes again, in its order, when there is some", async () => {
    await using rig = await makeRig(new PacketCable({ offloads }), { queueSizes: [64, 128, 64] })
    const { cable, driver } = rig
    cable.room = 5
    for (let i = 1; i <= 50; i++)
      driver.queue(TRANSMIT).post([driver.readable(HEADER), driver.readable(frameOf(60 + i, i))])
    driver.port.kick(TRANSMIT)
    for (const room of [12, 13, 50, 50]) {
      expect(rig.device.counters.framesSent).toBe(cable.sent.length)
      cable.room = room
      cable.onRoom()
    }
    expect(cable.sent.map(frame => frame[0])).toEqual(Array.from({ length: 50 }, (_, i) => i + 1))
    expect(rig.device.counters).toMatchObject({ framesSent: 50, bytesSent: 50 * 60 + 25 * 51, dropped: 0 })
    for (let i = 0; i < 50; i++) await driver.nextUsed(TRANSMIT)
  })

  test("a frame in more pieces than a system call takes is put together, and goes behind those before it", async () => {
    await using rig = await makeRig(new PacketCable({ offloads }))
    const { cable, driver } = rig
    const pieces = [...frameOf(1020, 2)].map(byte => driver.readable(Uint8Array.of(byte)))
    const indirectTable = driver.alloc(16 * (1 + pieces.length))
    driver.queue(TRANSMIT).post([driver.readable(HEADER), driver.readable(frameOf(60, 1))])
    driver.queue(TRANSMIT).post([driver.readable(HEADER), ...pieces], { indirectTable })
    cable.room = 1
    driver.port.kick(TRANSMIT)
    expect(cable.sent.map(frame => frame.length)).toEqual([60])
    cable.room = 2
    cable.onRoom()
    expect(cable.sent.map(frame => frame.length)).toEqual([60, 1020])
    for (let i = 0; i < 2; i++) await driver.nextUsed(TRANSMIT)
  })

  test("short frames, many of them, go in order", async () => {
    await using rig = await makeRig(new PacketCable({ offloads }))
    for (let i = 1; i <= 30; i++)
      rig.driver.queue(TRANSMIT).post([rig.driver.readable(HEADER), rig.driver.readable(frameOf(60, i))])
    rig.driver.port.kick(TRANSMIT)
    await rig.driver.until(() => rig.cable.sent.length === 30, "the frames")
    expect(rig.cable.sent.map(frame => frame[0])).toEqual(Array.from({ length: 30 }, (_, i) => i + 1))
  })

  test("N2: a header that does not fit never reaches it, also where the frame is only looked at in part", async () => {
    await using rig = await makeRig(new PacketCable({ offloads }))
    const frame = segmented(3000)
    const bad = [
      { ...TSO, csumStart: 0xfff0 },
      { ...TSO, csumStart: 3000 },
      { ...TSO, gsoSize: 0 },
      { ...TSO, gsoSize: 1 },
      { ...TSO, headerLength: 0xffff },
      { ...TSO, gsoType: 4 },
      { gsoType: 1 },
      {}, // longer than the MTU, and nothing to cut
    ]
    for (const fields of bad)
      await rig.driver.send(TRANSMIT, [rig.driver.readable(makeHeader(fields)), rig.driver.readable(frame)])
    expect(rig.cable.sent).toEqual([])
    expect(rig.device.counters).toMatchObject({ framesSent: 0, dropped: bad.length })
  })

  test("a checksum far behind in a frame is one of a frame that is copied whole", async () => {
    await using rig = await makeRig(new PacketCable({ offloads }))
    const header = makeHeader({ flags: 1, csumStart: 1000, csumOffset: 16 })
    await rig.driver.send(TRANSMIT, [rig.driver.readable(header), rig.driver.readable(frameOf(1500))])
    expect(rig.cable.seen).toEqual([{ header, frame: frameOf(1500), pair: 0 }])
  })

  test("a frame that comes with its header is spread like any other", async () => {
    await using rig = await makeRig(new PacketCable({ offloads }))
    const buffers = Array.from({ length: 3 }, () => rig.driver.writable(512))
    for (const buffer of buffers) rig.driver.queue(RECEIVE).post([buffer])
    const packet = Uint8Array.from([...makeHeader({ ...TSO, gsoSize: 400 }), ...segmented(1000)])
    expect(rig.cable.deliverPacket(packet, 0)).toBe(true)
    await published()
    const used = buffers.map(() => rig.driver.queue(RECEIVE).poll()?.length)
    expect(used).toEqual([512, 512, packet.length - 1024])
    const bytes = buffers.flatMap(buffer => [...buffer.bytes()]).slice(0, packet.length)
    expect(bytes.slice(12)).toEqual([...packet.subarray(12)])
    expect(bytes.slice(0, 12)).toEqual([...makeHeader({ ...TSO, gsoSize: 400 }).subarray(0, 10), 3, 0])
    expect(rig.cable.deliverPacket(packet, 0)).toBe(false)
  })
})

test("options out of range are refused", () => {
  expect(() => new NetDevice(new Cable(), { mtu: 67 })).toThrow(RangeError)
  expect(() => new NetDevice(new Cable(), { mac: "02:00:00:00:00" })).toThrow(RangeError)
  expect(() => new NetDevice(new Cable(), { mac: "01:00:00:00:00:01" })).toThrow(RangeError)
})

describe.each([direct, overVhostUser, overMmio])("network device over $name", over => {
  const works = async (driver: MockDriver) => {
    await driver.send(TRANSMIT, [driver.readable(HEADER), driver.readable(frameOf(60))])
  }
  const makeDevice = () => new NetDevice(new PacketCable())
  test.each(deviceConformance({ makeDevice, over, requestQueues: [TRANSMIT], works }))("$name", ({ run }) =>
    run(),
  )
})
