// Tap devices in a network namespace of the test's own: an interface made here keeps its fds when it is moved there.
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { accessSync, constants, existsSync } from "node:fs"
import { setTimeout } from "node:timers/promises"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { countFds } from "../../../../native/test/support/process.js"
import { direct, MockDriver } from "../../testing/index.js"
import * as defs from "../defs.js"
import { NetDevice } from "../index.js"
import { ipv4Frame, makeHeader, onesSum, type Route, TRANSPORT_AT } from "../testing.js"
import { openTap, type Tap, type TapError, TapPort } from "./index.js"

const PORT = 4242
const GUEST_MAC = "02:00:00:00:00:01"

function reasonToSkip(): string | undefined {
  if (process.getuid?.() !== 0) return "making interfaces needs root"
  if (!existsSync("/dev/net/tun")) return "there is no /dev/net/tun"
  try {
    accessSync("/usr/sbin/ip", constants.X_OK)
    return undefined
  } catch {
    return "ip is not installed"
  }
}
const skipped = reasonToSkip()

const ip = (...args: string[]) => execFileSync("ip", args, { stdio: "pipe" })
let counter = 0
let namespace: string
const children: ChildProcess[] = []

/** A UDP socket in the namespace: tells what it gets, and sends what it is told, as lines of JSON. */
const PEER = `
const socket = require("node:dgram").createSocket("udp4")
socket.on("message", bytes => console.log(JSON.stringify({ length: bytes.length, first: bytes[0] })))
socket.bind(${PORT}, "10.0.0.2", () => console.log(JSON.stringify({ ready: true })))
process.stdin.on("data", () => socket.send(Buffer.alloc(1000, 7), 5000, "10.0.0.1"))
`

interface Peer {
  readonly heard: { length?: number; first?: number; ready?: boolean }[]
  send(): void
}

async function startPeer(): Promise<Peer> {
  const child = spawn("ip", ["netns", "exec", namespace, process.execPath, "-e", PEER], {
    stdio: ["pipe", "pipe", "inherit"],
  })
  children.push(child)
  const heard: Peer["heard"] = []
  let rest = ""
  child.stdout?.on("data", (bytes: Buffer) => {
    const lines = (rest + bytes.toString()).split("\n")
    rest = lines.pop() ?? ""
    heard.push(...lines.map(line => JSON.parse(line)))
  })
  await until(() => heard.length > 0)
  heard.length = 0
  return { heard, send: () => child.stdin?.write("send\n") }
}

async function until(isSo: () => boolean): Promise<void> {
  for (const end = performance.now() + 20_000; !isSo(); await setTimeout(2))
    if (performance.now() > end) throw new Error("it does not come")
}

const inNamespace = (...args: string[]) => ip("-n", namespace, ...args)

/** Makes a tap device, moves it into the namespace, and starts it there. */
function makeTap(queuePairs = 1): Tap {
  const name = `tsv${process.pid % 100_000}x${counter++}`
  const tap = openTap({ name, queuePairs, create: true })
  ip("link", "set", name, "netns", namespace)
  inNamespace("addr", "add", "10.0.0.2/24", "dev", name)
  inNamespace("link", "set", name, "up")
  // Nobody is asked for the guest's address: it is told.
  inNamespace("neigh", "add", "10.0.0.1", "lladdr", GUEST_MAC, "dev", name)
  return tap
}

const macOf = (name: string) =>
  /link\/ether (\S+)/.exec(inNamespace("link", "show", name).toString())?.[1] as string

/** Frames that were read from an interface: the first that the guest has no buffers for lie in the port from then on. */
function framesRead(name: string): number {
  const [link] = JSON.parse(inNamespace("-s", "-j", "link", "show", name).toString())
  return link.stats64.tx.packets
}

/** A device on a tap device, and a driver that takes `features` of it. */
async function attach(tap: Tap, features = (offered: bigint) => offered & ~(1n << 34n)) {
  const ended: TapError[] = []
  const port = new TapPort(tap, { onEnd: error => ended.push(error) })
  const device = new NetDevice(port, { mac: GUEST_MAC, mtu: tap.mtu })
  const queueSizes = device.queueSizes.map(() => 64)
  const driver = await MockDriver.attach(device, direct, { queueSizes, features })
  const route: Route = { fromMac: GUEST_MAC, toMac: macOf(tap.name), from: "10.0.0.1", to: "10.0.0.2" }
  const send = (header: Uint8Array, frame: Uint8Array) =>
    driver.send(1, [driver.readable(header), driver.readable(frame)])
  return {
    ended,
    port,
    device,
    driver,
    route,
    send,
    async [Symbol.asyncDispose]() {
      await driver[Symbol.asyncDispose]()
      port.close()
    },
  }
}

const UDP_CSUM = { flags: 1, csumStart: TRANSPORT_AT, csumOffset: 6 }

describe.skipIf(skipped !== undefined)(`a tap device${skipped ? ` (skipped: ${skipped})` : ""}`, () => {
  beforeEach(() => {
    namespace = `tsvmm-${process.pid}-${counter++}`
    ip("netns", "add", namespace)
    // What IPv6 says by itself when an interface comes up would stand among the frames of a test.
    const quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"
    ip("netns", "exec", namespace, "sh", "-c", quiet)
  })
  afterEach(() => {
    for (const child of children.splice(0)) child.kill("SIGKILL")
    ip("netns", "del", namespace)
  })

  test("no fd and no interface stays behind", async () => {
    const before = countFds()
    const name = `tsv${process.pid % 100_000}y`
    const port = new TapPort(openTap({ name, create: true }))
    expect(existsSync(`/sys/class/net/${name}`)).toBe(true)
    port.close()
    await until(() => !existsSync(`/sys/class/net/${name}`))
    expect(countFds()).toBe(before)
  })

  test("a frame without its checksum is finished by the kernel", async () => {
    const tap = makeTap()
    const peer = await startPeer()
    await using rig = await attach(tap)
    await rig.send(makeHeader(UDP_CSUM), ipv4Frame(17, [5000, PORT], new Uint8Array(100).fill(9), rig.route))
    await until(() => peer.heard.length === 1)
    expect(peer.heard).toEqual([{ length: 100, first: 9 }])
  })

  test("a frame that is to be cut up arrives as many datagrams", async ({ skip }) => {
    const tap = makeTap()
    const peer = await startPeer()
    await using rig = await attach(tap)
    if ((tap.offloads & defs.VIRTIO_NET_F_HOST_USO) === 0n) skip("this kernel has no USO")
    const frame = ipv4Frame(17, [5000, PORT], new Uint8Array(5500).fill(3), rig.route)
    await rig.send(makeHeader({ ...UDP_CSUM, gsoType: 5, gsoSize: 1000, headerLength: 42 }), frame)
    await until(() => peer.heard.length === 6)
    expect(peer.heard.map(({ length }) => length)).toEqual([1000, 1000, 1000, 1000, 1000, 500])
  })

  test("a guest that takes unfinished frames gets them, and one that does not gets whole ones", async () => {
    const tap = makeTap()
    const peer = await startPeer()
    await using rig = await attach(tap)
    const receive = async () => {
      const buffer = rig.driver.writable(2048)
      rig.driver.queue(0).post([buffer])
      rig.driver.port.kick(0)
      peer.send()
      await rig.driver.until(() => (rig.driver.queue(0).poll()?.length ?? 0) > 1000, "a datagram")
      const bytes = buffer.bytes()
      return { header: bytes.slice(0, 12), packet: bytes.slice(12 + TRANSPORT_AT, 12 + TRANSPORT_AT + 1008) }
    }
    const pseudo = onesSum([10, 0, 0, 2, 10, 0, 0, 1, 0, 17, 1008 >> 8, 1008 & 255])
    const isWhole = (packet: Uint8Array) => onesSum([...u16s(pseudo), ...packet]) === 0xffff
    const unfinished = await receive()
    expect(unfinished.header[0]).toBe(defs.VIRTIO_NET_HDR_F_NEEDS_CSUM)
    expect(isWhole(unfinished.packet)).toBe(false)
    const answer = rig.driver.writable(1)
    await rig.driver.send(2, [rig.driver.readable(Uint8Array.of(5, 0, 0, 0, 0, 0, 0, 0, 0, 0)), answer])
    expect(answer.bytes()[0]).toBe(defs.VIRTIO_NET_OK)
    const whole = await receive()
    expect(whole.header[0]).toBe(0)
    expect(isWhole(whole.packet)).toBe(true)
  })

  test("N2: headers that do not fit never reach it", async () => {
    const tap = makeTap()
    const peer = await startPeer()
    await using rig = await attach(tap)
    const frame = ipv4Frame(17, [5000, PORT], new Uint8Array(3000), rig.route)
    const bad = [
      { ...UDP_CSUM, csumStart: 0xfff0 },
      { ...UDP_CSUM, gsoType: 5, gsoSize: 0 },
      { ...UDP_CSUM, gsoType: 1, gsoSize: 1000 },
      { ...UDP_CSUM, gsoType: 5, gsoSize: 1 },
      { ...UDP_CSUM, gsoType: 5, gsoSize: 1000, headerLength: 0xffff },
    ]
    for (const fields of bad) await rig.send(makeHeader(fields), frame)
    expect(rig.device.counters).toMatchObject({ framesSent: 0, dropped: bad.length })
    await rig.send(makeHeader(UDP_CSUM), ipv4Frame(17, [5000, PORT], Uint8Array.of(1), rig.route))
    await until(() => peer.heard.length > 0)
    expect(peer.heard).toEqual([{ length: 1, first: 1 }])
    expect(rig.port.lost).toBe(0)
  })

  test("N4: what the guest has no buffers for waits, and nothing is lost of what the kernel keeps", async () => {
    const tap = makeTap()
    const peer = await startPeer()
    await using rig = await attach(tap)
    for (let i = 0; i < 40; i++) peer.send()
    await until(() => framesRead(tap.name) > 0)
    expect(rig.device.counters.framesReceived).toBe(0)
    let got = 0
    for (let i = 0; i < 40; i++) {
      rig.driver.queue(0).post([rig.driver.writable(2048)])
      rig.driver.port.kick(0)
    }
    await until(() => {
      while (rig.driver.queue(0).poll()) got++
      return got > 0 && rig.device.counters.framesReceived === got
    })
  })

  test("N8: an interface that goes down is a link that is down, and comes up again", async () => {
    const tap = makeTap()
    await using rig = await attach(tap)
    await until(() => rig.device.isLinkUp)
    inNamespace("link", "set", tap.name, "down")
    await rig.send(makeHeader(), ipv4Frame(17, [1, 2], new Uint8Array(10), rig.route))
    await until(() => !rig.device.isLinkUp)
    expect(rig.port.lost).toBe(1)
    inNamespace("link", "set", tap.name, "up")
    await until(() => rig.device.isLinkUp)
    expect(rig.ended).toEqual([])
  })

  test("N8: an interface that is deleted is told once; the guest goes on without a link", async () => {
    const tap = makeTap()
    await using rig = await attach(tap)
    await until(() => rig.device.isLinkUp)
    inNamespace("link", "del", tap.name)
    await until(() => !rig.device.isLinkUp)
    await rig.send(makeHeader(), ipv4Frame(17, [1, 2], new Uint8Array(10), rig.route))
    expect(rig.ended.map(({ code }) => code)).toEqual(["gone"])
    await rig.driver.reset()
    expect(await rig.driver.port.needsReset()).toBe(false)
  })

  test("N8: so is one whose network namespace is removed", async () => {
    const tap = makeTap()
    await using rig = await attach(tap)
    await until(() => rig.device.isLinkUp)
    ip("netns", "del", namespace)
    await until(() => rig.ended.length === 1)
    expect(rig.device.isLinkUp).toBe(false)
    ip("netns", "add", namespace)
  })

  test("N8: that it is deleted is seen by a guest without room for frames when it has some", async () => {
    const tap = makeTap()
    const peer = await startPeer()
    await using rig = await attach(tap)
    await until(() => rig.device.isLinkUp)
    for (let i = 0; i < 40; i++) peer.send()
    await until(() => framesRead(tap.name) > 0)
    expect(rig.ended).toEqual([])
    inNamespace("link", "del", tap.name)
    for (let i = 0; i < 40; i++) rig.driver.queue(0).post([rig.driver.writable(2048)])
    rig.driver.port.kick(0)
    await until(() => rig.ended.length === 1)
  })

  test("several queues carry frames, each of its own, once the driver uses them", async () => {
    const tap = makeTap(2)
    const peer = await startPeer()
    await using rig = await attach(tap)
    const answer = rig.driver.writable(1)
    await rig.driver.send(4, [rig.driver.readable(Uint8Array.of(4, 0, 2, 0)), answer])
    expect(answer.bytes()[0]).toBe(defs.VIRTIO_NET_OK)
    const frame = ipv4Frame(17, [5000, PORT], Uint8Array.of(2), rig.route)
    for (const queue of [1, 3])
      await rig.driver.send(queue, [rig.driver.readable(makeHeader(UDP_CSUM)), rig.driver.readable(frame)])
    await until(() => peer.heard.length === 2)
    await rig.driver.reset() // back to one pair, and to two again
    expect(rig.port.queuePairs).toBe(2)
  })
})

const u16s = (value: number) => [value >> 8, value & 255]

test("a name that is none is refused, and an interface that is not there", () => {
  for (const name of ["", "..", "a/b", "tap%d", "a b", "a-name-of-17-bytes"])
    expect(() => openTap({ name })).toThrow(RangeError)
  expect(() => openTap({ name: "tap0", queuePairs: 17 })).toThrow(RangeError)
  expect(() => openTap({ name: "no-such-tap" })).toThrow(/there is no interface "no-such-tap"/)
})

test.skipIf(skipped !== undefined)("what is no tap device is told so", () => {
  expect(() => openTap({ name: "lo" })).toThrow(expect.objectContaining({ code: "not-a-tap" }))
})
