import { beforeEach, describe, expect, test } from "vitest"
import { VmmError } from "../errors.js"
import { Serial, type SerialState } from "./serial.js"

const [RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR] = [0, 1, 2, 3, 4, 5, 6, 7]
const [THR, FCR] = [0, 2]

let interrupts: number
let output: number[]
let spaceOffers: number
let published: number[]
let native: boolean[]
let serial: Serial

function makeSerial(): Serial {
  return new Serial({
    interrupt: () => {
      interrupts++
    },
    output: bytes => output.push(...bytes),
    onInputSpace: () => {
      spaceOffers++
    },
    publishLineStatus: value => published.push(value),
    onNativeTransmitChange: on => native.push(on),
  })
}

beforeEach(() => {
  interrupts = 0
  output = []
  spaceOffers = 0
  published = []
  native = []
  serial = makeSerial()
})

function inb(offset: number): number {
  const into = new Uint8Array(1)
  serial.read(offset, into)
  return into[0]!
}

function outb(offset: number, value: number): void {
  serial.write(offset, Uint8Array.of(value))
}

const bytes = (text: string) => new TextEncoder().encode(text)

describe("transmit", () => {
  test("gives each byte to the output and is ready for the next", () => {
    for (const byte of bytes("ok\n")) outb(THR, byte)
    expect(output).toEqual([...bytes("ok\n")])
    expect(inb(LSR)).toBe(0x60)
    expect(serial.counters.transmitted).toBe(3)
    expect(interrupts).toBe(0)
  })

  test("raises transmitter-empty for each byte while the driver asks for it", () => {
    outb(IER, 0x02)
    expect(inb(IIR)).toBe(0x02)
    outb(THR, 0x41)
    expect(interrupts).toBe(2)
    expect(inb(IIR)).toBe(0x02)
    expect(inb(IIR)).toBe(0x01)
  })

  test("bytes that a vCPU thread collected count the same, with one interrupt", () => {
    outb(IER, 0x02)
    inb(IIR)
    interrupts = 0
    serial.transmitted(bytes("collected"))
    expect(output).toEqual([...bytes("collected")])
    expect(interrupts).toBe(1)
    expect(inb(IIR)).toBe(0x02)
    serial.transmitted(new Uint8Array(0))
    expect(interrupts).toBe(1)
  })

  test("nativeTransmit follows divisor latch and loopback, and says so once for each change", () => {
    expect(native).toEqual([true])
    outb(LCR, 0x83)
    outb(LCR, 0x80)
    expect(serial.nativeTransmit).toBe(false)
    outb(MCR, 0x10)
    outb(LCR, 0x03)
    expect(serial.nativeTransmit).toBe(false)
    outb(MCR, 0x0b)
    expect(native).toEqual([true, false, true])
    expect(output).toEqual([])
  })
})

describe("receive", () => {
  test("takes at most a FIFO of input and offers space when the guest has read all", () => {
    expect(serial.enqueue(bytes("0123456789abcdefXYZ"))).toBe(16)
    expect(serial.enqueue(bytes("XYZ"))).toBe(0)
    const read = Array.from({ length: 16 }, () => inb(RBR))
    expect(String.fromCharCode(...read)).toBe("0123456789abcdef")
    expect(spaceOffers).toBe(1)
    expect(serial.enqueue(bytes("XYZ"))).toBe(3)
    for (let i = 0; i < 3; i++) inb(RBR)
    expect(spaceOffers).toBe(1)
    expect(serial.counters.received).toBe(19)
  })

  test("C2: a flood of input is refused and never held", () => {
    for (let i = 0; i < 10_000; i++) serial.enqueue(new Uint8Array(4096))
    expect(serial.state().input).toHaveLength(16)
    expect(spaceOffers).toBe(0)
  })

  test("C1: a flood of output is never held", () => {
    for (let i = 0; i < 10_000; i++) outb(THR, i)
    expect(output).toHaveLength(10_000)
    expect(JSON.stringify(serial.state()).length).toBeLessThan(400)
  })

  test("publishes each change of the line status, and only changes", () => {
    serial.enqueue(bytes("ab"))
    inb(RBR)
    inb(RBR)
    inb(LSR)
    expect(published).toEqual([0x60, 0x61, 0x60])
  })

  test("reading with nothing there gives zero", () => {
    expect(inb(RBR)).toBe(0)
    expect(inb(LSR)).toBe(0x60)
  })
})

describe("interrupt identification", () => {
  test("received data comes before transmitter empty, that before modem status", () => {
    outb(MCR, 0x10) // all lines drop: modem status has changed
    outb(MCR, 0x00)
    outb(IER, 0x0f)
    serial.enqueue(bytes("x"))
    expect(inb(IIR)).toBe(0x04)
    inb(RBR)
    expect(inb(IIR)).toBe(0x02)
    expect(inb(IIR)).toBe(0x00)
    expect(inb(MSR)).toBe(0xbb)
    expect(inb(IIR)).toBe(0x01)
    expect(inb(MSR)).toBe(0xb0)
  })

  test("with FIFOs on says data at the trigger level and timeout below it", () => {
    outb(FCR, 0x81) // trigger at 8
    outb(IER, 0x01)
    serial.enqueue(bytes("1234567"))
    expect(inb(IIR)).toBe(0xcc)
    serial.enqueue(bytes("8"))
    expect(inb(IIR)).toBe(0xc4)
    inb(RBR)
    expect(inb(IIR)).toBe(0xcc)
  })

  test("enabling an interrupt whose cause is there raises it", () => {
    serial.enqueue(bytes("x"))
    expect(interrupts).toBe(0)
    outb(IER, 0x01)
    expect(interrupts).toBe(1)
    outb(IER, 0x01)
    expect(interrupts).toBe(1)
  })

  test("disabled causes neither interrupt nor show", () => {
    serial.enqueue(bytes("x"))
    outb(THR, 1)
    expect(inb(IIR)).toBe(0x01)
    expect(interrupts).toBe(0)
  })
})

describe("registers", () => {
  test("the divisor latch is apart from data and interrupt enable", () => {
    outb(IER, 0x05)
    outb(LCR, 0x83)
    expect([inb(0), inb(1)]).toEqual([12, 0])
    outb(0, 0x34)
    outb(1, 0x12)
    expect([inb(0), inb(1)]).toEqual([0x34, 0x12])
    outb(LCR, 0x03)
    expect(inb(IER)).toBe(0x05)
    expect(output).toEqual([])
  })

  test("only defined bits of interrupt enable and modem control stay", () => {
    outb(IER, 0xff)
    outb(MCR, 0xef)
    expect([inb(IER), inb(MCR)]).toEqual([0x0f, 0x0f])
  })

  test("scratch keeps a byte; line and modem status do not", () => {
    outb(SCR, 0xa5)
    outb(LSR, 0)
    outb(MSR, 0)
    expect([inb(SCR), inb(LSR), inb(MSR)]).toEqual([0xa5, 0x60, 0xb0])
  })

  test("clearing the receive FIFO, or switching it, drops input and offers space", () => {
    outb(FCR, 0x01)
    serial.enqueue(new Uint8Array(20))
    outb(FCR, 0x03)
    expect([inb(LSR), spaceOffers]).toEqual([0x60, 1])
    serial.enqueue(bytes("a"))
    outb(FCR, 0x01)
    expect(inb(LSR)).toBe(0x61)
    outb(FCR, 0x00)
    expect(inb(LSR)).toBe(0x60)
  })

  test("T5: any width at any offset is answered; only the first byte counts", () => {
    for (let offset = 0; offset < 16; offset++)
      for (const width of [0, 1, 2, 4, 8]) {
        const into = new Uint8Array(width)
        serial.read(offset, into)
        serial.write(offset, new Uint8Array(width).fill(0x5a))
        expect([...into.subarray(1)].every(byte => byte === 0xff)).toBe(true)
      }
  })
})

describe("state", () => {
  test("a restored port goes on where the saved one was", () => {
    outb(FCR, 0xc1)
    outb(IER, 0x03)
    outb(SCR, 9)
    serial.enqueue(bytes("held"))
    const saved: SerialState = JSON.parse(JSON.stringify(serial.state()))
    serial = makeSerial()
    interrupts = 0
    serial.restore(saved)
    expect(serial.state()).toEqual(saved)
    expect(interrupts).toBe(1)
    expect(published.at(-1)).toBe(0x61)
    expect(inb(IIR)).toBe(0xcc)
    expect(inb(RBR)).toBe("h".charCodeAt(0))
  })

  test.each([
    { scratch: 256 },
    { divisor: 0x1_0000 },
    { lineControl: -1 },
    { input: [1.5] },
    { input: Array(17).fill(0) },
  ])("that does not fit is refused: %j", change => {
    const before = serial.state()
    expect(() => serial.restore({ ...before, ...change })).toThrow(VmmError)
    expect(serial.state()).toEqual(before)
  })
})
