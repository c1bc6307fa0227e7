import { PassThrough, Writable } from "node:stream"
import { setImmediate } from "node:timers/promises"
import { afterEach, describe, expect, test } from "vitest"
import {
  deviceConformance,
  direct,
  MockDriver,
  type MockDriverOptions,
  overMmio,
  overVhostUser,
} from "../testing/index.js"
import {
  CONTROL_RX_QUEUE,
  CONTROL_TX_QUEUE,
  portRxQueue,
  portTxQueue,
  VIRTIO_CONSOLE_CONSOLE_PORT,
  VIRTIO_CONSOLE_DEVICE_READY,
  VIRTIO_CONSOLE_PORT_ADD,
  VIRTIO_CONSOLE_PORT_NAME,
  VIRTIO_CONSOLE_PORT_OPEN,
  VIRTIO_CONSOLE_PORT_READY,
  VIRTIO_CONSOLE_RESIZE,
} from "./defs.js"
import { ConsoleDevice, type ConsoleOptions, escapeConsoleText } from "./index.js"

const RX = portRxQueue(0)
const TX = portTxQueue(0)
const text = (value: string) => new TextEncoder().encode(value)
const string = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

const drivers: MockDriver[] = []
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver[Symbol.asyncDispose]()
})

async function attach(options: ConsoleOptions = {}, driverOptions: MockDriverOptions = {}) {
  const device = new ConsoleDevice(options)
  const driver = await MockDriver.attach(device, direct, driverOptions)
  drivers.push(driver)
  return { device, driver, port: device.ports[0] }
}

/** Collects output; takes bytes only while `open`. */
function collector() {
  const sink = {
    open: true,
    text: "",
    write(bytes: Uint8Array) {
      sink.text += string(bytes)
      return sink.open
    },
  }
  return sink
}

/** The driver's half of the control queues. */
function control(driver: MockDriver, buffers = 12) {
  const posted = new Map<number, { bytes(): Uint8Array }>()
  for (let i = 0; i < buffers; i++) {
    const buffer = driver.writable(32)
    posted.set(driver.post(CONTROL_RX_QUEUE, [buffer]), buffer)
  }
  const say = async (id: number, event: number, value: number) => {
    const message = new Uint8Array(8)
    const view = new DataView(message.buffer)
    view.setUint32(0, id, true)
    view.setUint16(4, event, true)
    view.setUint16(6, value, true)
    await driver.send(CONTROL_TX_QUEUE, [driver.readable(message)])
  }
  const heard = async () => {
    await driver.port.settle()
    const list: { id: number; event: number; value: number; extra: Uint8Array }[] = []
    for (
      let used = driver.queue(CONTROL_RX_QUEUE).poll();
      used;
      used = driver.queue(CONTROL_RX_QUEUE).poll()
    ) {
      const bytes = posted.get(used.id)!.bytes().slice(0, used.length)
      const view = new DataView(bytes.buffer)
      list.push({
        id: view.getUint32(0, true),
        event: view.getUint16(4, true),
        value: view.getUint16(6, true),
        extra: bytes.slice(8),
      })
    }
    return list
  }
  return { say, heard }
}

describe("a console without multiport", () => {
  test("offers two queues and the size in config space", async () => {
    const { device, driver, port } = await attach()
    port.resize({ cols: 132, rows: 43 })
    expect(device.queueSizes.length).toBe(2)
    expect([...(await driver.port.readConfig(0, 8))]).toEqual([132, 0, 43, 0, 1, 0, 0, 0])
    expect(driver.configInterrupts).toBe(1)
  })

  test("gives output to the sink, in order, also across descriptors", async () => {
    const { driver, port } = await attach()
    const sink = collector()
    port.attach(sink)
    await driver.send(TX, [driver.readable(text("hello ")), driver.readable(text("world"))])
    await driver.send(TX, [driver.readable(text("!"))])
    expect(sink.text).toBe("hello world!")
    expect(port.outputBytes).toBe(12)
  })

  test("gives input to the guest as buffers come, split and joined as they fit", async () => {
    const { driver, port } = await attach()
    expect(port.send(text("abcdefgh"))).toBe(8)
    const small = [driver.writable(3), driver.writable(3), driver.writable(16)]
    for (const buffer of small) driver.post(RX, [buffer])
    const lengths = [await driver.nextUsed(RX), await driver.nextUsed(RX), await driver.nextUsed(RX)].map(
      u => u.length,
    )
    expect(lengths).toEqual([3, 3, 2])
    expect(small.map(b => string(b.bytes()).replaceAll("\0", ""))).toEqual(["abc", "def", "gh"])
    expect(port.pendingInput).toBe(0)
  })

  test("keeps what was typed and drawn before the guest was up", async () => {
    const device = new ConsoleDevice()
    device.ports[0].send(text("early"))
    device.ports[0].resize({ cols: 80, rows: 25 })
    const driver = await MockDriver.attach(device)
    drivers.push(driver)
    const buffer = driver.writable(16)
    expect((await driver.send(RX, [buffer])).length).toBe(5)
    expect(device.ports[0].guestOpen).toBe(true)
  })

  test("C1: output nobody reads keeps its newest bytes, counts the others, and never stops the guest", async () => {
    const { driver, port } = await attach({ ports: [{ bufferSize: 1000 }] })
    const line = driver.readable(new Uint8Array(999).fill(0x61))
    const last = driver.readable(text("END"))
    for (let i = 0; i < 300; i++) await driver.send(TX, [line])
    await driver.send(TX, [last])
    expect(port.droppedBytes).toBe(300 * 999 + 3 - 1000)
    const sink = collector()
    port.attach(sink)
    expect(sink.text).toBe(`${"a".repeat(997)}END`)
  })

  test("C1: a sink that is stuck costs a bounded buffer, and gets the newest when it wakes", async () => {
    const { driver, port } = await attach({ ports: [{ bufferSize: 8 }] })
    const sink = collector()
    port.attach(sink)
    sink.open = false
    for (const part of ["first ", "lost ", "lost too ", "the last"])
      await driver.send(TX, [driver.readable(text(part))])
    expect(sink.text).toBe("first ")
    sink.open = true
    port.resume()
    expect(sink.text).toBe("first the last")
    await driver.send(TX, [driver.readable(text("!"))])
    expect(sink.text).toBe("first the last!")
  })

  test("C1: with `hold` a slow reader slows the guest down and no byte is lost", async () => {
    const { driver, port } = await attach({ ports: [{ whenFull: "hold" }] })
    const chunks: Buffer[] = []
    const slow = new Writable({
      highWaterMark: 1000,
      write: (chunk, _encoding, done) => {
        chunks.push(chunk)
        void setImmediate().then(() => done())
      },
    })
    port.pipe(slow)
    const data = Uint8Array.from({ length: 40_000 }, (_, i) => i * 31)
    for (let i = 0; i < 10; i++) await driver.send(TX, [driver.readable(data)])
    await driver.until(() => chunks.reduce((n, c) => n + c.length, 0) === 400_000, "all output")
    expect(Buffer.concat(chunks).subarray(360_000)).toEqual(Buffer.from(data))
    expect(port.droppedBytes).toBe(0)
  })

  test("C1: one chain of gigabytes is taken piece by piece, in turns", async () => {
    const { driver, port } = await attach()
    const table = driver.alloc(1024 * 16)
    const huge = Array.from({ length: 1024 }, () => ({
      ...driver.writable(0, 0),
      address: 0,
      length: 2 ** 20,
      writable: false,
    }))
    driver.post(TX, huge, { indirectTable: table })
    await setImmediate()
    expect(driver.queue(TX).poll()).toBeUndefined()
    await driver.reset()
    expect(port.outputBytes).toBeLessThan(2 ** 30)
  })

  test("C2: input nobody takes is bounded, and `writable` says when to go on", async () => {
    const { driver, port } = await attach({ ports: [{ bufferSize: 100 }] })
    expect(port.send(new Uint8Array(70))).toBe(70)
    expect(port.send(new Uint8Array(70))).toBe(30)
    expect(port.send(new Uint8Array(70))).toBe(0)
    const writable = port.writable()
    await driver.send(RX, [driver.writable(64)])
    await writable
    expect(port.send(new Uint8Array(70))).toBe(64)
  })

  test("C3: escape sequences and broken UTF-8 pass as bytes, and are harmless once escaped", async () => {
    const { driver, port } = await attach()
    const received: Uint8Array[] = []
    port.attach({ write: bytes => received.push(bytes) > 0 })
    const nasty = Uint8Array.of(0x1b, 0x5d, 0x30, 0x3b, 0xc3, 0x28, 0xff, 0x00, 0x9b, 0x5c, 0x0a)
    await driver.send(TX, [driver.readable(nasty)])
    expect(received).toEqual([nasty])
    expect(escapeConsoleText(nasty)).toBe("\\x1b]0;\\xc3(\\xff\\x00\\x9b\\\\\\x0a")
  })

  test("C4: attaching, detaching and resizing 10,000 times leaks nothing, guest or no guest", async () => {
    const { driver, port } = await attach()
    const stream = new PassThrough()
    for (let i = 0; i < 10_000; i++) {
      port.pipe(stream)()
      port.resize({ cols: i % 500, rows: i % 200 })
    }
    expect(["drain", "close", "error"].map(event => stream.listenerCount(event))).toEqual(
      [0, 0, 0].map((_, i) => new PassThrough().listenerCount(["drain", "close", "error"][i]!)),
    )
    await driver.port.reset()
    port.resize({ cols: 1, rows: 1 })
    expect(port.hostOpen).toBe(false)
  })

  test("C4: a stream that closes detaches itself", async () => {
    const { driver, port } = await attach()
    const stream = new PassThrough()
    port.pipe(stream)
    stream.destroy()
    await setImmediate()
    expect(port.hostOpen).toBe(false)
    await driver.send(TX, [driver.readable(text("still alive"))])
  })

  test("drops what was meant for a guest that is gone", async () => {
    const { driver, port } = await attach()
    port.send(text("for the old guest"))
    await driver.reset()
    expect(port.pendingInput).toBe(0)
  })

  test("refuses sizes and port counts that do not exist", () => {
    expect(() => new ConsoleDevice({ ports: [] })).toThrow(RangeError)
    expect(() => new ConsoleDevice({ ports: Array.from({ length: 32 }, () => ({})) })).toThrow(RangeError)
    expect(() => new ConsoleDevice({ ports: [{}, {}], multiport: false })).toThrow(RangeError)
    expect(() => new ConsoleDevice().ports[0].resize({ cols: 65536, rows: 1 })).toThrow(RangeError)
    expect(() => new ConsoleDevice({ ports: [{ bufferSize: -1 }] })).toThrow(RangeError)
  })
})

describe("a console with several ports", () => {
  const PORTS: ConsoleOptions = { ports: [{ name: "tty" }, { name: "org.example.agent" }] }

  test("announces ports, says what they are, and hears who opened them", async () => {
    const { device, driver } = await attach(PORTS)
    const { say, heard } = control(driver)
    device.ports[0].resize({ cols: 80, rows: 25 })
    await say(0, VIRTIO_CONSOLE_DEVICE_READY, 1)
    expect((await heard()).map(m => [m.id, m.event])).toEqual([
      [0, VIRTIO_CONSOLE_PORT_ADD],
      [1, VIRTIO_CONSOLE_PORT_ADD],
    ])
    await say(0, VIRTIO_CONSOLE_PORT_READY, 1)
    const first = await heard()
    expect(first.map(m => m.event)).toEqual([
      VIRTIO_CONSOLE_CONSOLE_PORT,
      VIRTIO_CONSOLE_PORT_NAME,
      VIRTIO_CONSOLE_RESIZE,
      VIRTIO_CONSOLE_PORT_OPEN,
    ])
    expect([string(first[1]!.extra), [...first[2]!.extra]]).toEqual(["tty", [80, 0, 25, 0]])
    await say(1, VIRTIO_CONSOLE_PORT_READY, 1)
    expect((await heard()).map(m => [m.id, m.event, string(m.extra)])).toEqual([
      [1, VIRTIO_CONSOLE_PORT_NAME, "org.example.agent"],
    ])
    await say(1, VIRTIO_CONSOLE_PORT_OPEN, 1)
    expect(device.ports.map(p => p.guestOpen)).toEqual([false, true])
  })

  test("tells a port's host side and new sizes as they change, the latest only", async () => {
    const { device, driver } = await attach(PORTS)
    const { say, heard } = control(driver)
    await say(0, VIRTIO_CONSOLE_DEVICE_READY, 1)
    for (const id of [0, 1]) await say(id, VIRTIO_CONSOLE_PORT_READY, 1)
    await heard()
    device.ports[1]!.attach(collector())
    device.ports[1]!.resize({ cols: 1, rows: 1 })
    device.ports[0].resize({ cols: 100, rows: 30 })
    expect((await heard()).map(m => [m.id, m.event, m.value])).toEqual([
      [1, VIRTIO_CONSOLE_PORT_OPEN, 1],
      [0, VIRTIO_CONSOLE_RESIZE, 1],
    ])
    device.ports[1]!.detach()
    expect((await heard()).map(m => [m.id, m.event, m.value])).toEqual([[1, VIRTIO_CONSOLE_PORT_OPEN, 0]])
  })

  test("moves bytes of each port through its own queues, with back-pressure of its own", async () => {
    const { device, driver } = await attach(PORTS)
    const { say } = control(driver)
    await say(0, VIRTIO_CONSOLE_DEVICE_READY, 1)
    await say(1, VIRTIO_CONSOLE_PORT_OPEN, 1)
    const held = driver.post(portTxQueue(1), [driver.readable(text("wait"))])
    await driver.send(TX, [driver.readable(text("console goes on"))])
    expect(driver.queue(portTxQueue(1)).poll()).toBeUndefined()
    const sink = collector()
    device.ports[1]!.attach(sink)
    expect((await driver.nextUsed(portTxQueue(1))).id).toBe(held)
    expect(sink.text).toBe("wait")
    device.ports[1]!.send(text("reply"))
    expect((await driver.send(portRxQueue(1), [driver.writable(8)])).length).toBe(5)
  })

  test("keeps input until the guest opens the port", async () => {
    const { device, driver } = await attach(PORTS)
    const { say } = control(driver)
    device.ports[1]!.send(text("patience"))
    const id = driver.post(portRxQueue(1), [driver.writable(16)])
    await driver.port.settle()
    expect(driver.queue(portRxQueue(1)).poll()).toBeUndefined()
    await say(1, VIRTIO_CONSOLE_PORT_OPEN, 1)
    expect(await driver.nextUsed(portRxQueue(1))).toEqual({ id, length: 8 })
  })

  test("works for a driver that takes no multiport, with port 0 alone", async () => {
    const { device, driver } = await attach(PORTS, {
      features: offered => offered & ~2n,
      queueSizes: [16, 16],
    })
    const sink = collector()
    device.ports[0].attach(sink)
    await driver.send(TX, [driver.readable(text("plain"))])
    expect([sink.text, device.ports[0].guestOpen, device.ports[1]!.guestOpen]).toEqual(["plain", true, false])
  })

  test("ignores control messages that make no sense, and a flood of them makes nothing grow", async () => {
    const { device, driver } = await attach(PORTS)
    const { say, heard } = control(driver, 4)
    await driver.send(CONTROL_TX_QUEUE, [driver.readable(Uint8Array.of(1, 2, 3))])
    await say(7, VIRTIO_CONSOLE_PORT_READY, 1)
    await say(0xffff_ffff, VIRTIO_CONSOLE_PORT_OPEN, 1)
    await say(0, 999, 1)
    await say(0, VIRTIO_CONSOLE_PORT_READY, 0)
    await say(0, VIRTIO_CONSOLE_DEVICE_READY, 0)
    expect(device.ignoredMessages).toBe(6)
    for (let i = 0; i < 500; i++) await say(0, VIRTIO_CONSOLE_DEVICE_READY, 1)
    expect((await heard()).length).toBe(4)
    expect(await driver.port.needsReset()).toBe(false)
  })
})

describe.each([
  { what: "one port", over: direct, options: {} },
  { what: "three ports", over: direct, options: { ports: [{}, {}, {}] } },
  { what: "one port", over: overVhostUser, options: {} },
  { what: "three ports", over: overVhostUser, options: { ports: [{}, {}, {}] } },
  { what: "one port", over: overMmio, options: {} },
  { what: "three ports", over: overMmio, options: { ports: [{}, {}, {}] } },
])("console with $what over $over.name", ({ options, over }) => {
  const works = async (driver: MockDriver) => {
    const device = driver.device as ConsoleDevice
    const sink = collector()
    device.ports[0].attach(sink)
    await driver.send(TX, [driver.readable(text("ping"))])
    expect(sink.text.endsWith("ping")).toBe(true)
    device.ports[0].detach()
  }
  const makeDevice = () => new ConsoleDevice(options)
  test.each(deviceConformance({ makeDevice, over, requestQueues: [TX], works }))("$name", ({ run }) => run())
})
