import type { IrqRoute } from "@ts-vmm/kvm-ioctls"
import { beforeEach, describe, expect, test } from "vitest"
import { IoApic } from "./io-apic.js"

const [ID, VERSION, ARBITRATION, TABLE] = [0x00, 0x01, 0x02, 0x10]
const MASKED = 0x1_0000
const LEVEL = 0x8000
const REMOTE_IRR = 0x4000

let routes: readonly IrqRoute[]
let messages: number[]
let ioapic: IoApic

beforeEach(() => {
  routes = []
  messages = []
  ioapic = new IoApic({
    setGsiRouting: given => {
      routes = given
    },
    signalMsi: ({ data }) => messages.push(data & 0xff),
  })
})

function read(register: number): number {
  ioapic.write(0x00, Uint8Array.of(register, 0, 0, 0))
  const word = new Uint8Array(4)
  ioapic.read(0x10, word)
  return new DataView(word.buffer).getUint32(0, true)
}

function write(register: number, value: number): void {
  ioapic.write(0x00, Uint8Array.of(register, 0, 0, 0))
  const word = new Uint8Array(4)
  new DataView(word.buffer).setUint32(0, value, true)
  ioapic.write(0x10, word)
}

const setPin = (pin: number, low: number, high = 0) => {
  write(TABLE + 2 * pin + 1, high)
  write(TABLE + 2 * pin, low)
}

describe("registers", () => {
  test("say 24 pins, version 0x11, all masked at reset", () => {
    expect(read(VERSION)).toBe(0x17_0011)
    for (let pin = 0; pin < 24; pin++)
      expect([read(TABLE + 2 * pin), read(TABLE + 2 * pin + 1)]).toEqual([MASKED, 0])
  })

  test("keep the id's four bits and show them as arbitration id", () => {
    write(ID, 0xffff_ffff)
    expect([read(ID), read(ARBITRATION)]).toEqual([0x0f00_0000, 0x0f00_0000])
    write(VERSION, 0)
    expect(read(VERSION)).toBe(0x17_0011)
  })

  test("delivery status and remote IRR are read-only", () => {
    setPin(3, 0xffff_ffff, 0xff00_0000)
    expect(read(TABLE + 6)).toBe(0x1_afff)
    expect(read(TABLE + 7)).toBe(0xff00_0000)
  })

  test("T5: beyond the table, at other offsets and in other widths nothing happens", () => {
    for (let register = 0x40; register <= 0xff; register++) write(register, 0)
    expect(read(0x40)).toBe(0)
    for (let offset = 0; offset < 64; offset++)
      for (const width of [0, 1, 2, 3, 8])
        if (offset !== 0x10) {
          const into = new Uint8Array(width)
          ioapic.read(offset, into)
          ioapic.write(offset, new Uint8Array(width).fill(0xa5))
        }
    for (let pin = 0; pin < 24; pin++) expect(read(TABLE + 2 * pin)).toBe(MASKED)
    expect(routes).toEqual([])
    for (const gsi of [-1, 24, 1.5, Number.NaN]) ioapic.raise(gsi)
    expect(messages).toEqual([])
  })
})

describe("routes", () => {
  test("exist for unmasked pins only, and follow the guest", () => {
    setPin(5, 0x41, 0x0100_0000)
    setPin(23, 0x0952, 0xff00_0000) // lowest priority, logical destination
    expect(routes).toEqual([
      { gsi: 5, msi: { address_lo: 0xfee0_1000, address_hi: 0, data: 0x4041 } },
      { gsi: 23, msi: { address_lo: 0xfeef_f004, address_hi: 0, data: 0x4152 } },
    ])
    setPin(5, 0x41 | MASKED, 0x0100_0000)
    expect(routes.map(r => r.gsi)).toEqual([23])
  })

  test("are given to the kernel only when one changes", () => {
    setPin(5, 0x41)
    expect(ioapic.counters.routings).toBe(1)
    setPin(5, 0x41)
    setPin(6, 0x42 | MASKED, 0x0300_0000)
    write(TABLE + 11, 0x00ff_ffff) // reserved bits of the high half
    expect(ioapic.counters.routings).toBe(1)
    setPin(6, 0x42, 0x0300_0000)
    expect(ioapic.counters.routings).toBe(2)
  })

  test("there is none for ExtINT and reserved delivery modes", () => {
    for (const mode of [3, 6, 7]) {
      setPin(5, 0x41 | (mode << 8))
      ioapic.raise(5)
    }
    expect(routes).toEqual([])
    expect(messages).toEqual([])
  })
})

describe("edge-triggered pins", () => {
  test("send on each rising edge and only then", () => {
    setPin(4, 0x31)
    ioapic.setLine(4, true)
    ioapic.setLine(4, true)
    ioapic.setLine(4, false)
    ioapic.setLine(4, true)
    expect(messages).toEqual([0x31, 0x31])
  })

  test("lose an edge while they are masked", () => {
    ioapic.raise(4)
    setPin(4, 0x31)
    expect(messages).toEqual([])
    expect(ioapic.counters).toMatchObject({ lost: 1, delivered: 0 })
  })
})

describe("level-triggered pins", () => {
  test("send once, wait for the end of interrupt, and send again while the line is held", () => {
    setPin(9, 0x51 | LEVEL)
    ioapic.setLine(9, true)
    ioapic.setLine(9, true)
    expect(messages).toEqual([0x51])
    expect(read(TABLE + 18) & REMOTE_IRR).toBe(REMOTE_IRR)
    ioapic.endOfInterrupt(0x52)
    expect(messages).toEqual([0x51])
    ioapic.endOfInterrupt(0x51)
    expect(messages).toEqual([0x51, 0x51])
    ioapic.setLine(9, false)
    ioapic.endOfInterrupt(0x51)
    expect(messages).toEqual([0x51, 0x51])
    expect(read(TABLE + 18) & REMOTE_IRR).toBe(0)
  })

  test("remember a held line while they are masked", () => {
    setPin(9, 0x51 | LEVEL | MASKED)
    ioapic.setLine(9, true)
    expect(messages).toEqual([])
    setPin(9, 0x51 | LEVEL)
    expect(messages).toEqual([0x51])
  })

  test("drop a pending acknowledgement when they become edge-triggered", () => {
    setPin(9, 0x51 | LEVEL)
    ioapic.setLine(9, true)
    setPin(9, 0x51)
    expect(read(TABLE + 18)).toBe(0x51)
  })

  test("an end of interrupt serves every pin with that vector", () => {
    setPin(9, 0x51 | LEVEL)
    setPin(10, 0x51 | LEVEL)
    ioapic.setLine(9, true)
    ioapic.setLine(10, true)
    messages.length = 0
    ioapic.endOfInterrupt(0x51)
    expect(messages).toEqual([0x51, 0x51])
  })
})
