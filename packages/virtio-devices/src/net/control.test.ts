import { afterEach, beforeEach, describe, expect, test } from "vitest"
import * as defs from "./defs.js"
import { Cable, makeRig, type Rig } from "./testing.js"

const OFFLOADS = defs.HOST_OFFLOADS | defs.GUEST_OFFLOADS
const PAIRS = 3
const CONTROL = 2 * PAIRS
const [OK, ERR] = [defs.VIRTIO_NET_OK, defs.VIRTIO_NET_ERR]
const OTHER = "02:00:00:00:00:09"
const GROUP = "33:33:00:00:00:01"

let rig: Rig
beforeEach(async () => {
  rig = await makeRig(new Cable({ offloads: OFFLOADS, queuePairs: PAIRS }), {}, { mac: "02:00:00:00:00:01" })
})
afterEach(() => rig[Symbol.asyncDispose]())

/** A command, and its answer. */
async function command(bytes: readonly number[] | Uint8Array, queue = CONTROL, from = rig): Promise<number> {
  const answer = from.driver.writable(1)
  const used = await from.driver.send(queue, [from.driver.readable(Uint8Array.from(bytes)), answer])
  expect(used.length).toBe(1)
  return answer.bytes()[0] as number
}

const macOf = (text: string) => text.split(":").map(part => Number.parseInt(part, 16))
const u32 = (value: number) => [value & 255, (value >> 8) & 255, (value >> 16) & 255, value >>> 24]
const u64 = (value: bigint) => [...new Uint8Array(BigUint64Array.of(value).buffer)]
const table = (...macs: string[]) => [...u32(macs.length), ...macs.flatMap(macOf)]

/** Whether a frame to `mac` reaches the guest; with a VLAN tag if one is given. */
async function reaches(mac: string, vlan?: number): Promise<boolean> {
  const before = rig.device.counters.filtered
  const tag = vlan === undefined ? [8, 0] : [0x81, 0, vlan >> 8, vlan & 255, 8, 0]
  const frame = Uint8Array.from([...macOf(mac), ...new Array(6).fill(2), ...tag, ...new Array(50).fill(0)])
  rig.driver.queue(0).post([rig.driver.writable(2048)])
  expect(rig.cable.deliver(frame)).toBe(true)
  return rig.device.counters.filtered === before
}

describe("what the driver listens to", () => {
  test("is everything, until it says otherwise", async () => {
    expect(await reaches(OTHER)).toBe(true)
  })

  test("is then its own address, broadcasts, and the addresses of its tables", async () => {
    expect(await command([0, 0, 0])).toBe(OK)
    expect([await reaches(rig.device.mac), await reaches("ff:ff:ff:ff:ff:ff")]).toEqual([true, true])
    expect([await reaches(OTHER), await reaches(GROUP)]).toEqual([false, false])
    expect(await command([1, 0, ...table(OTHER), ...table(GROUP)])).toBe(OK)
    expect([await reaches(OTHER), await reaches(GROUP)]).toEqual([true, true])
  })

  test("is all of a kind, or nothing of it", async () => {
    await command([0, defs.VIRTIO_NET_CTRL_RX_PROMISC, 0])
    await command([0, defs.VIRTIO_NET_CTRL_RX_ALLMULTI, 1])
    await command([0, defs.VIRTIO_NET_CTRL_RX_ALLUNI, 1])
    expect([await reaches(OTHER), await reaches(GROUP)]).toEqual([true, true])
    for (const mode of [3, 4, 5]) expect(await command([0, mode, 1])).toBe(OK)
    const seen = [await reaches(rig.device.mac), await reaches(GROUP), await reaches("ff:ff:ff:ff:ff:ff")]
    expect(seen).toEqual([false, false, false])
  })

  test("is by VLAN", async () => {
    expect(await reaches(OTHER, 5)).toBe(false)
    expect(await command([2, defs.VIRTIO_NET_CTRL_VLAN_ADD, 5, 0])).toBe(OK)
    expect([await reaches(OTHER, 5), await reaches(OTHER, 6)]).toEqual([true, false])
    expect(await command([2, defs.VIRTIO_NET_CTRL_VLAN_DEL, 5, 0])).toBe(OK)
    expect(await reaches(OTHER, 5)).toBe(false)
  })

  test("more addresses than there is room for are all addresses", async () => {
    await command([0, 0, 0])
    const many = Array.from({ length: 65 }, (_, i) => `02:01:00:00:00:${i.toString(16).padStart(2, "0")}`)
    expect(await command([1, 0, ...table(...many), ...table()])).toBe(OK)
    expect([await reaches(OTHER), await reaches(GROUP)]).toEqual([true, false])
  })
})

test("the address changes, and comes back with a reset", async () => {
  expect(await command([1, 1, ...macOf(OTHER)])).toBe(OK)
  expect(rig.device.mac).toBe(OTHER)
  expect([...(await rig.driver.port.readConfig(0, 6))]).toEqual(macOf(OTHER))
  await rig.driver.reset()
  expect(rig.device.mac).toBe("02:00:00:00:00:01")
})

test("offloads are switched among those that were negotiated", async () => {
  expect(rig.cable.guestOffloads).toBe(defs.GUEST_OFFLOADS)
  expect(await command([5, 0, ...u64(defs.VIRTIO_NET_F_GUEST_CSUM)])).toBe(OK)
  expect(rig.cable.guestOffloads).toBe(defs.VIRTIO_NET_F_GUEST_CSUM)
  await rig.driver.port.reset()
  expect(rig.cable.guestOffloads).toBe(0n)
})

test("an announcement is asked for, seen in the configuration, and acknowledged", async () => {
  const status = async () => (await rig.driver.port.readConfig(6, 1))[0]
  expect(rig.device.announce()).toBe(true)
  expect(await status()).toBe(3)
  expect(await command([3, 0])).toBe(OK)
  expect(await status()).toBe(1)
})

describe("several queue pairs", () => {
  const frame = new Uint8Array(60)
  const send = (pair: number) =>
    rig.driver.queue(2 * pair + 1).post([rig.driver.readable(new Uint8Array(12)), rig.driver.readable(frame)])

  test("are used from when the driver says so", async () => {
    expect((await rig.driver.port.readConfig(8, 2))[0]).toBe(PAIRS)
    send(2)
    rig.driver.port.kick(5)
    await rig.driver.port.settle()
    expect(rig.cable.seen).toEqual([])
    expect(await command([4, 0, 3, 0])).toBe(OK)
    expect(rig.cable.pairsInUse).toBe(3)
    rig.driver.port.kick(5)
    await rig.driver.until(() => rig.cable.seen.length === 1, "a frame of the third pair")
    expect(rig.cable.seen[0]?.pair).toBe(2)
  })

  test("each gets its own frames, with the header that the port gives", async () => {
    await command([4, 0, 2, 0])
    const buffer = rig.driver.writable(2048)
    rig.driver.queue(2).post([buffer])
    const header = Uint8Array.of(1, 1, 54, 0, 180, 5, 34, 0, 16, 0, 0, 0)
    expect(rig.cable.deliver(frame, header, 1)).toBe(true)
    await rig.driver.until(() => rig.driver.queue(2).poll()?.length === 72, "the frame")
    expect([...buffer.bytes().subarray(0, 12)]).toEqual([...header.subarray(0, 10), 1, 0])
  })

  test("a driver that knows of one only has its control queue behind that", async () => {
    const features = (offered: bigint) => offered & ~(defs.VIRTIO_NET_F_MQ | (1n << 34n))
    await using one = await makeRig(new Cable({ queuePairs: PAIRS }), { features })
    expect(await command([0, 0, 0], 2, one)).toBe(OK)
  })
})

describe("N5: a command that is none is answered with an error, and changes nothing", () => {
  test.each<[string, readonly number[]]>([
    ["nothing", []],
    ["half a header", [0]],
    ["a class that nobody knows", [77, 0, 0]],
    ["a mode that nobody knows", [0, 6, 1]],
    ["a mode that is neither on nor off", [0, 0, 2]],
    ["a mode without a value", [0, 0]],
    ["a table with more addresses than there are bytes", [1, 0, ...u32(3), ...macOf(OTHER), ...table()]],
    ["a table of 4,294,967,295 addresses", [1, 0, ...u32(0xffff_ffff), ...macOf(OTHER)]],
    ["one table only", [1, 0, ...table(OTHER)]],
    ["bytes behind the tables", [1, 0, ...table(), ...table(), 1]],
    ["an address that is cut off", [1, 1, 2, 0, 0]],
    ["a group's address", [1, 1, ...macOf(GROUP)]],
    ["a MAC command that nobody knows", [1, 2, ...macOf(OTHER)]],
    ["a VLAN that is none", [2, 0, 0, 0x10]],
    ["a VLAN command that nobody knows", [2, 2, 5, 0]],
    ["a VLAN of one byte", [2, 0, 5]],
    ["an acknowledgement with data", [3, 0, 1]],
    ["no pairs", [4, 0, 0, 0]],
    ["more pairs than there are", [4, 0, PAIRS + 1, 0]],
    ["0x8000 pairs", [4, 0, 0, 0x80]],
    ["receive-side scaling, which is not offered", [4, 1, ...new Array(40).fill(0)]],
    ["offloads that were not negotiated", [5, 0, ...u64(1n << 10n)]],
    ["features that are no offloads", [5, 0, ...u64(defs.VIRTIO_NET_F_MQ)]],
    ["offloads of seven bytes", [5, 0, ...u64(0n).slice(1)]],
    ["ten thousand bytes", [1, 0, ...table(), ...table(), ...new Array(10_000).fill(0)]],
  ])("%s", async (_, bytes) => {
    const before = [rig.device.mac, rig.cable.pairsInUse, rig.cable.guestOffloads]
    if (bytes.length > 0) expect(await command(bytes)).toBe(ERR)
    else expect((await rig.driver.send(CONTROL, [rig.driver.writable(1)])).length).toBe(1)
    expect([rig.device.mac, rig.cable.pairsInUse, rig.cable.guestOffloads]).toEqual(before)
  })

  test("what was not negotiated", async () => {
    const left = defs.VIRTIO_NET_F_CTRL_VQ | defs.VIRTIO_NET_F_GUEST_CSUM
    await using plain = await makeRig(new Cable({ offloads: OFFLOADS }), { features: () => left })
    const commands = [
      [0, 0, 0],
      [0, 2, 1],
      [1, 0, ...table(), ...table()],
      [1, 1, ...macOf(OTHER)],
      [2, 0, 5, 0],
    ]
    for (const bytes of [...commands, [3, 0], [4, 0, 1, 0], [5, 0, ...u64(0n)]])
      expect(await command(bytes, 2, plain)).toBe(ERR)
  })

  test("without room for an answer nothing is done", async () => {
    const used = await rig.driver.send(CONTROL, [rig.driver.readable(Uint8Array.of(4, 0, 3, 0))])
    expect(used.length).toBe(0)
    expect(rig.cable.pairsInUse).toBe(1)
  })
})
