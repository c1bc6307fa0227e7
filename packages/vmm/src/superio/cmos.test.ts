import { beforeEach, describe, expect, test } from "vitest"
import { Cmos } from "./cmos.js"

const MIB = 2 ** 20
const GIB = 2 ** 30

let now: Date
let cmos: Cmos

beforeEach(() => {
  now = new Date("2031-12-07T23:59:58Z") // a Sunday
  cmos = new Cmos({ now: () => now, lowMemorySize: 3 * GIB, highMemorySize: 3 * GIB })
})

function read(index: number): number {
  cmos.write(0, Uint8Array.of(index))
  const into = new Uint8Array(1)
  cmos.read(1, into)
  return into[0]!
}

function write(index: number, value: number): void {
  cmos.write(0, Uint8Array.of(index))
  cmos.write(1, Uint8Array.of(value))
}

const word = (index: number, from = read) => from(index) | (from(index + 1) << 8)

describe("clock", () => {
  test("shows the injected time in BCD and 24 hours, with century", () => {
    const fields = [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32].map(read)
    expect(fields).toEqual([0x58, 0x59, 0x23, 1, 0x07, 0x12, 0x31, 0x20])
    now = new Date("2032-01-01T00:00:00Z") // a Thursday
    expect([0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09].map(read)).toEqual([0, 0, 0, 5, 1, 1, 0x32])
  })

  test("is never in the middle of an update, has a good battery and no interrupt", () => {
    write(0x0a, 0xff)
    expect(read(0x0a)).toBe(0x7f)
    expect(read(0x0c)).toBe(0)
    write(0x0d, 0)
    expect(read(0x0d)).toBe(0x80)
  })

  test("keeps its format whatever the guest asks for, and its time whatever the guest writes", () => {
    write(0x0b, 0x84)
    expect(read(0x0b)).toBe(0x82)
    for (const index of [0, 2, 4, 6, 7, 8, 9, 0x32]) write(index, 0x11)
    expect(read(0x04)).toBe(0x23)
    expect(read(0x32)).toBe(0x20)
  })
})

describe("memory", () => {
  test("sizes are where a PC's firmware leaves them", () => {
    expect(word(0x15)).toBe(640)
    expect(word(0x17)).toBe(0xffff)
    expect(word(0x30)).toBe(0xffff)
    expect(word(0x34)).toBe((3 * GIB - 16 * MIB) / 65536)
    expect(word(0x5b) | (read(0x5d) << 16)).toBe((3 * GIB) / 65536)
    cmos = new Cmos({ lowMemorySize: 8 * MIB })
    expect([word(0x17), word(0x34), word(0x5b)]).toEqual([7 * 1024, 0, 0])
  })

  test("other bytes are the guest's own, such as the shutdown code of a warm reset", () => {
    write(0x0f, 0x0a)
    write(0x7f, 0x55)
    expect([read(0x0f), read(0x7f), read(0x40)]).toEqual([0x0a, 0x55, 0])
  })

  test("bit 7 of the index is the NMI mask and no part of it", () => {
    write(0x8f, 0x05)
    expect(read(0x0f)).toBe(0x05)
  })
})

test("T5: the index cannot be read; wide accesses do not reach past the two ports", () => {
  const wide = new Uint8Array(4)
  cmos.read(0, wide)
  expect([...wide]).toEqual([0xff, 0xff, 0xff, 0xff])
  cmos.write(0, Uint8Array.of(0x40, 0x77, 1, 2)) // index and data in one write
  expect(read(0x40)).toBe(0x77)
  cmos.write(0, Uint8Array.of(0x00))
  cmos.read(1, wide)
  expect([...wide]).toEqual([0x58, 0xff, 0xff, 0xff])
  cmos.read(1, new Uint8Array(0))
})
