import { beforeEach, describe, expect, test } from "vitest"
import { I8042 } from "./i8042.js"

const [DATA, PORT_B, COMMAND] = [0, 1, 4]

let resets: number
let interrupts: number
let controller: I8042

beforeEach(() => {
  resets = 0
  interrupts = 0
  controller = new I8042({
    onReset: () => {
      resets++
    },
    interrupt: () => {
      interrupts++
    },
  })
})

function inb(offset: number): number {
  const into = new Uint8Array(1)
  controller.read(offset, into)
  return into[0]!
}

function outb(offset: number, value: number): void {
  controller.write(offset, Uint8Array.of(value))
}

/** Everything that waits in the output buffer. */
function drain(): number[] {
  const values: number[] = []
  while (inb(COMMAND) & 0x01 && values.length < 100) values.push(inb(DATA))
  return values
}

function command(value: number, ...parameters: number[]): number[] {
  expect(inb(COMMAND) & 0x02).toBe(0) // the input buffer is never full
  outb(COMMAND, value)
  for (const parameter of parameters) outb(DATA, parameter)
  return drain()
}

describe("reset", () => {
  test("by the pulse that `reboot=k` sends", () => {
    outb(COMMAND, 0xfe)
    expect(resets).toBe(1)
  })

  test("by the reset line of the output port", () => {
    command(0xd1, 0x03)
    expect(resets).toBe(0)
    command(0xd1, 0x02)
    expect(resets).toBe(1)
  })

  test("by nothing else", () => {
    for (let value = 0; value < 256; value++)
      if (value < 0xf0 || value & 1) {
        outb(COMMAND, value)
        outb(DATA, 0xff)
        drain()
      }
    expect(resets).toBe(0)
  })
})

describe("a driver's probe", () => {
  test("finds a controller with an empty output buffer", () => {
    expect(drain()).toEqual([])
    expect(inb(COMMAND) & 0x10).toBe(0x10) // not locked
  })

  test("passes the self tests of controller and keyboard port", () => {
    expect(command(0xaa)).toEqual([0x55])
    expect(inb(COMMAND) & 0x04).toBe(0x04)
    expect(command(0xab)).toEqual([0x00])
    expect(command(0xd0)).toEqual([0x03])
  })

  test("reads the command byte twice the same, and reads back what it wrote", () => {
    const [ctr] = command(0x20)
    expect(command(0x20)).toEqual([ctr])
    command(0x60, 0x74)
    expect(command(0x20)).toEqual([0x74])
    expect(command(0xae)).toEqual([])
    expect(command(0x20)).toEqual([0x64])
    expect(command(0xad)).toEqual([])
    expect(command(0x20)).toEqual([0x74])
  })

  test("learns at once that there is no auxiliary port", () => {
    outb(COMMAND, 0xd3)
    outb(DATA, 0x5a)
    expect(inb(COMMAND) & 0x21).toBe(0x01) // an answer, but not marked as the auxiliary port's
    expect(drain()).toEqual([0x5a])
    expect(command(0xa9)).toEqual([0x01])
    command(0xa8)
    command(0x60, 0x00)
    expect(command(0x20)).toEqual([0x20]) // auxiliary port stays disabled
    expect(command(0xd4, 0xf2)).toEqual([])
  })

  test("a pending parameter is forgotten when another command comes", () => {
    outb(COMMAND, 0x60)
    expect(command(0xaa)).toEqual([0x55])
    outb(DATA, 0xee)
    expect(drain()).toEqual([0xee]) // an echo by the keyboard, not the command byte
  })
})

describe("keyboard", () => {
  test.each([
    ["reset", [0xff], [0xfa, 0xaa]],
    ["identify", [0xf2], [0xfa, 0xab, 0x83]],
    ["echo", [0xee], [0xee]],
    ["set LEDs", [0xed, 0x02], [0xfa, 0xfa]],
    ["set rate", [0xf3, 0x00], [0xfa, 0xfa]],
    ["ask for the scan code set", [0xf0, 0x00], [0xfa, 0xfa, 0x02]],
    ["choose the scan code set", [0xf0, 0x02], [0xfa, 0xfa]],
    ["enable", [0xf4], [0xfa]],
    ["disable", [0xf5], [0xfa]],
  ])("answers %s", (_name, values, answer) => {
    for (const value of values) outb(DATA, value)
    expect(drain()).toEqual(answer)
  })

  test("raises an interrupt for each byte that is ready, if the command byte allows it", () => {
    outb(DATA, 0xf2)
    expect(interrupts).toBe(1)
    inb(DATA)
    expect(interrupts).toBe(2)
    inb(DATA)
    expect(interrupts).toBe(3)
    inb(DATA)
    expect(interrupts).toBe(3)
    command(0x60, 0x64)
    outb(DATA, 0xf2)
    drain()
    expect(interrupts).toBe(3)
  })

  test("answers that nobody reads are bounded", () => {
    for (let i = 0; i < 1000; i++) {
      outb(DATA, 0xf2)
      outb(COMMAND, 0xaa)
    }
    expect(drain()).toHaveLength(16)
  })
})

test("T5: other ports and widths float or are dropped", () => {
  for (const offset of [2, 3]) expect(inb(offset)).toBe(0xff)
  expect(inb(PORT_B) & 0x30).toBe(0x30)
  const wide = new Uint8Array(4)
  controller.read(DATA, wide)
  expect([...wide]).toEqual([0, 0xff, 0xff, 0xff])
  controller.read(DATA, new Uint8Array(0))
  controller.write(COMMAND, new Uint8Array(0))
  outb(PORT_B, 0xfe)
  outb(2, 0xfe)
  expect(resets).toBe(0)
})
