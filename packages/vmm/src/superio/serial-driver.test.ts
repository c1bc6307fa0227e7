import { beforeEach, describe, expect, test } from "vitest"
import { Serial } from "./serial.js"

/*
 * What drivers do with a 16550A, step by step: the probe of Linux's 8250 driver, its tests of the
 * transmitter-empty interrupt, its interrupt handler on an edge-triggered line.
 */

const [RX, IER, IIR, LCR, MCR, LSR, MSR] = [0, 1, 2, 3, 4, 5, 6]
const [TX, FCR] = [0, 2]
const NO_INTERRUPT = 0x01

let edges: number
let output: number[]
let serial: Serial

beforeEach(() => {
  edges = 0
  output = []
  serial = new Serial({
    interrupt: () => {
      edges++
    },
    output: bytes => output.push(...bytes),
  })
})

function inb(offset: number): number {
  const into = new Uint8Array(1)
  serial.read(offset, into)
  return into[0]!
}

function outb(offset: number, value: number): void {
  serial.write(offset, Uint8Array.of(value))
}

describe("probe", () => {
  test("the interrupt enable register keeps four bits", () => {
    const saved = inb(IER)
    outb(IER, 0)
    expect(inb(IER) & 0x0f).toBe(0)
    outb(IER, 0x0f)
    expect(inb(IER) & 0x0f).toBe(0x0f)
    outb(IER, saved)
  })

  test("in loopback the modem outputs come back as inputs", () => {
    outb(MCR, 0x10 | 0x08 | 0x02) // LOOP, OUT2, RTS
    expect(inb(MSR) & 0xf0).toBe(0x80 | 0x10) // DCD, CTS
    outb(MCR, 0)
    expect(inb(MSR) & 0xf0).toBe(0xb0)
  })

  test("the ring indicator reports only its trailing edge", () => {
    outb(MCR, 0x10)
    inb(MSR)
    outb(MCR, 0x14) // OUT1 on: RI rises
    expect(inb(MSR)).toBe(0x40)
    outb(MCR, 0x10)
    expect(inb(MSR)).toBe(0x04)
  })

  test("FIFO bits identify a 16550A, and no larger type", () => {
    outb(LCR, 0xbf)
    outb(FCR, 0) // EFR of an extended UART
    outb(LCR, 0)
    outb(FCR, 0x01)
    expect(inb(IIR) >> 6).toBe(3)
    outb(LCR, 0x80)
    expect(inb(2)).not.toBe(0) // no EFR there: a 16C950 would read zero
    outb(FCR, 0x21)
    outb(LCR, 0)
    expect(inb(IIR) & 0x20).toBe(0) // no 64-byte FIFO: not a 16750
    outb(IER, 0x40)
    expect(inb(IER) & 0x40).toBe(0) // no UUE bit: not an XScale port
  })

  test("loopback holds sixteen bytes: the size of the FIFO", () => {
    outb(FCR, 0x07)
    outb(MCR, 0x10)
    for (let count = 0; count < 256; count++) outb(TX, count)
    let count = 0
    while (inb(LSR) & 0x01 && count < 256) expect(inb(RX)).toBe(count++)
    expect(count).toBe(16)
    outb(MCR, 0)
    expect(output).toEqual([])
    expect(serial.counters).toMatchObject({ loopbackOverruns: 240, received: 0 })
  })

  test("input from outside waits while loopback is on", () => {
    outb(MCR, 0x10)
    expect(serial.enqueue(Uint8Array.of(1))).toBe(0)
    expect(inb(LSR) & 0x01).toBe(0)
    outb(MCR, 0)
    expect(serial.enqueue(Uint8Array.of(1))).toBe(1)
  })
})

describe("transmitter-empty interrupt", () => {
  test("comes each time it is enabled, not only the first", () => {
    outb(IER, 0x02)
    const first = inb(IIR) & NO_INTERRUPT
    outb(IER, 0)
    outb(IER, 0x02)
    const second = inb(IIR) & NO_INTERRUPT
    outb(IER, 0)
    expect([first, second]).toEqual([0, 0])
    expect(inb(IIR)).toBe(NO_INTERRUPT)
    expect(edges).toBe(2)
  })

  test("is there when the driver starts to transmit with it on", () => {
    outb(IER, 0x02)
    expect(inb(LSR) & 0x40).toBe(0x40)
    expect(inb(IIR) & NO_INTERRUPT).toBe(0)
  })
})

test("an interrupt handler that works until nothing is pending loses nothing on an edge-triggered line", () => {
  const text = Array.from({ length: 100 }, (_, i) => i)
  const received: number[] = []
  outb(FCR, 0xc7)
  outb(LCR, 0x03)
  outb(MCR, 0x0b)
  outb(IER, 0x03)
  const handler = (): void => {
    for (let iir = inb(IIR); !(iir & NO_INTERRUPT); iir = inb(IIR)) {
      while (inb(LSR) & 0x01) received.push(inb(RX))
      const next = text.splice(0, 16)
      if (next.length === 0) outb(IER, 0x01)
      for (const byte of next) outb(TX, byte)
    }
  }
  for (let served = 0, input = 0; served < edges || input < 50; ) {
    if (served < edges) {
      served = edges
      handler()
    } else input += serial.enqueue(Uint8Array.from({ length: Math.min(20, 50 - input) }, (_, i) => input + i))
  }
  expect(output).toEqual(Array.from({ length: 100 }, (_, i) => i))
  expect(received).toEqual(Array.from({ length: 50 }, (_, i) => i))
})
