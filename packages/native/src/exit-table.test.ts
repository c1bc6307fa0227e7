import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { type ExitRow, ExitTable, type ExitTableOptions } from "./index.js"

const KVM_EXIT_IO = 2
const KVM_EXIT_HLT = 5
const KVM_EXIT_MMIO = 6
/** As long as the mapping of a vCPU on x86-64: kvm_run, the data of port I/O, the coalesced ring. */
const RUN_SIZE = 12288
const IO_DATA = 4096

/** A table of one row over port 0x20 to 0x23 or the same MMIO addresses. */
function oneRow(row: Partial<ExitRow>, options: Partial<ExitTableOptions> = {}): ExitTable {
  const whole: ExitRow = { space: "mmio", start: 0x20, end: 0x24, read: "ones", write: "drop", ...row }
  return new ExitTable({ cells: 2, ...options, rows: [whole] })
}

/** A kvm_run page with one access, little-endian. @see linux/kvm.h, struct kvm_run */
class Page {
  readonly buffer = new ArrayBuffer(RUN_SIZE)
  readonly view = new DataView(this.buffer)

  static mmio(address: number, isWrite: boolean, data: readonly number[]): Page {
    const page = new Page()
    page.view.setUint32(8, KVM_EXIT_MMIO, true)
    page.view.setBigUint64(32, BigInt(address), true)
    new Uint8Array(page.buffer, 40, 8).set(data.slice(0, 8))
    page.view.setUint32(48, data.length, true)
    page.view.setUint8(52, Number(isWrite))
    return page
  }

  static io(port: number, out: boolean, size: number, data: readonly number[]): Page {
    const page = new Page()
    page.view.setUint32(8, KVM_EXIT_IO, true)
    page.view.setUint8(32, Number(out))
    page.view.setUint8(33, size)
    page.view.setUint16(34, port, true)
    page.view.setUint32(36, data.length / size, true)
    page.view.setBigUint64(40, BigInt(IO_DATA), true)
    new Uint8Array(page.buffer, IO_DATA).set(data)
    return page
  }

  mmioData(length: number): number[] {
    return [...new Uint8Array(this.buffer, 40, length)]
  }
  ioData(length: number): number[] {
    return [...new Uint8Array(this.buffer, IO_DATA, length)]
  }
}

describe("an access to a row", () => {
  test("is delivered, or reads as ones", () => {
    const read = Page.mmio(0x23, false, [1, 2, 3, 4])

    expect(oneRow({ read: "deliver" }).answer(read.buffer)).toBe(false)
    expect(read.mmioData(4)).toEqual([1, 2, 3, 4])
    expect(oneRow({ read: "ones" }).answer(read.buffer)).toBe(true)
    expect(read.mmioData(4)).toEqual([255, 255, 255, 255])
    expect(oneRow({ write: "deliver" }).answer(Page.mmio(0x20, true, [1]).buffer)).toBe(false)
    expect(oneRow({ write: "drop" }).answer(Page.mmio(0x20, true, [1]).buffer)).toBe(true)
  })

  test.each([
    [0x20, 1, [0x78]],
    [0x20, 2, [0x78, 0x56]],
    [0x20, 4, [0x78, 0x56, 0x34, 0x12]],
    [0x20, 8, undefined],
    [0x21, 1, undefined],
  ])("at %x of %d bytes gets the low bytes of a cell, or is delivered", (address, length, answer) => {
    const table = oneRow({ read: "cell", cell: 1 })
    Atomics.store(table.cells, 1, 0x12345678)
    const page = Page.mmio(address, false, Array(length).fill(0))

    expect(table.answer(page.buffer)).toBe(answer !== undefined)
    expect(page.mmioData(length)).toEqual(answer ?? Array(length).fill(0))
  })

  test.each([
    [0x20, [0x0f, 0, 0, 0], 0xfff0],
    [0x20, [0x0f], 0xfff0],
    [0x20, [0xff, 0xff], 0],
    [0x20, [1, 0, 0, 0, 0, 0, 0, 0], undefined],
    [0x22, [1], undefined],
  ])("at %x with %j clears bits of a cell, or is delivered", (address, data, left) => {
    const table = oneRow({ write: "clear-bits" })
    Atomics.store(table.cells, 0, 0xffff)

    expect(table.answer(Page.mmio(address, true, data).buffer)).toBe(left !== undefined)
    expect(Atomics.load(table.cells, 0)).toBe(left ?? 0xffff)
  })

  test("that is wider than the row, or repeated, gets no cell", () => {
    const table = oneRow({ space: "pio", end: 0x22, read: "cell", write: "clear-bits" })

    expect(table.answer(Page.io(0x20, false, 2, [0, 0]).buffer)).toBe(true)
    expect(table.answer(Page.io(0x20, false, 4, [0, 0, 0, 0]).buffer)).toBe(false)
    expect(table.answer(Page.io(0x20, false, 1, [0, 0]).buffer)).toBe(false)
    expect(table.answer(Page.io(0x20, true, 1, [0, 0]).buffer)).toBe(false)
  })

  test("goes by its first byte, and ports are not memory", () => {
    const table = oneRow({ read: "deliver", write: "deliver" })

    expect(table.answer(Page.mmio(0x1f, false, [0, 0]).buffer)).toBe(true)
    expect(table.answer(Page.mmio(0x24, false, [0]).buffer)).toBe(true)
    expect(table.answer(Page.mmio(0x23, false, [0, 0]).buffer)).toBe(false)
    expect(table.answer(Page.io(0x20, false, 1, [0]).buffer)).toBe(true)
    expect(table.unclaimed).toBe(3)
  })
})

test("the right row of many is found", () => {
  const rows = Array.from({ length: 4096 }, (_, i) => ({
    ...({ space: i % 2 === 0 ? "pio" : "mmio", start: i * 8, end: i * 8 + 4 } as const),
    ...({ read: "cell", write: "drop", cell: i } as const),
  }))
  const table = new ExitTable({ rows: rows.reverse(), cells: 4096 })
  for (let i = 0; i < 4096; i++) Atomics.store(table.cells, i, i)

  for (let i = 0; i < 4096; i++) {
    const port = Page.io(i * 8, false, 2, [0, 0])
    const memory = Page.mmio(i * 8, false, [0, 0])
    expect(table.answer(port.buffer) && table.answer(memory.buffer)).toBe(true)
    const [mine, other] = [i & 0xff, i >> 8]
    expect(port.ioData(2)).toEqual(i % 2 === 0 ? [mine, other] : [255, 255])
    expect(memory.mmioData(2)).toEqual(i % 2 === 1 ? [mine, other] : [255, 255])
  }
  expect(table.unclaimed).toBe(4096)
})

describe("a sink", () => {
  const sink = { space: "pio", write: "sink" } as const

  test("takes single and repeated bytes, all or nothing", () => {
    const got: number[] = []
    const table = oneRow(sink, { sinkSize: 4, onBytes: bytes => got.push(...bytes) })

    expect(table.answer(Page.io(0x20, true, 1, [1]).buffer)).toBe(true)
    expect(table.answer(Page.io(0x21, true, 1, [2, 3]).buffer)).toBe(true)
    expect(table.answer(Page.io(0x20, true, 1, [4, 5]).buffer)).toBe(false)
    expect(table.answer(Page.io(0x20, true, 1, [6]).buffer)).toBe(true)
    table.flush()
    expect(table.answer(Page.io(0x20, true, 1, [7, 8, 9]).buffer)).toBe(true)
    table.flush()
    table.flush()

    expect(got).toEqual([1, 2, 3, 6, 7, 8, 9])
  })

  test("delivers what is no byte, and everything if it has no room at all", () => {
    const table = oneRow(sink, { sinkSize: 4 })
    const none = oneRow(sink)

    expect(table.answer(Page.io(0x20, true, 2, [1, 2]).buffer)).toBe(false)
    expect(none.answer(Page.io(0x20, true, 1, [1]).buffer)).toBe(false)
    none.flush()
  })

  test("any mix of writes and flushes comes out in order", () => {
    const write = fc.uint8Array({ minLength: 1, maxLength: 9 })
    fc.assert(
      fc.property(fc.array(fc.oneof(write, fc.constant(undefined))), steps => {
        const got: number[] = []
        const table = oneRow(sink, { sinkSize: 10, onBytes: bytes => got.push(...bytes) })
        const sent: number[] = []
        for (const bytes of steps) {
          if (bytes === undefined) table.flush()
          else if (table.answer(Page.io(0x20, true, 1, [...bytes]).buffer)) sent.push(...bytes)
        }
        table.flush()
        expect(got).toEqual(sent)
      }),
      { seed: 24 },
    )
  })
})

describe("the table", () => {
  test("switches the actions of a row", () => {
    const table = oneRow({ read: "deliver", write: "deliver" })

    table.setActions("mmio", 0x23, { read: "ones" })
    expect(table.answer(Page.mmio(0x20, false, [0]).buffer)).toBe(true)
    expect(table.answer(Page.mmio(0x20, true, [0]).buffer)).toBe(false)
    table.setActions("mmio", 0x20, { read: "deliver", write: "drop" })
    expect(table.answer(Page.mmio(0x20, false, [0]).buffer)).toBe(false)
    expect(table.answer(Page.mmio(0x20, true, [0]).buffer)).toBe(true)

    expect(() => table.setActions("mmio", 0x24, { read: "ones" })).toThrow(RangeError)
    expect(() => table.setActions("pio", 0x20, { read: "ones" })).toThrow(RangeError)
    expect(() => table.setActions("mmio", 0x20, { write: "cell" as "drop" })).toThrow(RangeError)
  })

  test("refuses rows that overlap, are empty, or name no cell, and keeps those it had", () => {
    const table = oneRow({ read: "deliver" })
    const row = { space: "pio", start: 0, end: 4, read: "ones", write: "drop" } as const
    const wrong: ExitRow[][] = [
      [row, { ...row, start: 3, end: 5 }],
      [{ ...row, end: 0 }],
      [{ ...row, cell: 2 }],
      [{ ...row, start: -1 }],
      [{ ...row, end: 2 ** 53 }],
      [{ ...row, read: "sink" as "ones" }],
      [{ ...row, write: "cell" as "drop" }],
      [{ ...row, space: "msr" as "pio" }],
    ]

    for (const rows of wrong) expect(() => table.replaceRows(rows), JSON.stringify(rows)).toThrow(RangeError)
    expect(table.answer(Page.mmio(0x20, false, [0]).buffer)).toBe(false)
    table.replaceRows([row, { ...row, start: 4, end: 5 }])
    expect(table.answer(Page.mmio(0x20, false, [0]).buffer)).toBe(true)
  })

  test("leaves other exits, and pages that make no sense, alone", () => {
    const table = oneRow({})
    const halted = new Page()
    halted.view.setUint32(8, KVM_EXIT_HLT, true)
    const wide = Page.mmio(0x20, false, Array(9).fill(0))
    const outside = Page.io(0x20, false, 1, [0])
    outside.view.setBigUint64(40, BigInt(RUN_SIZE), true)
    const endless = Page.io(0x20, true, 4, [0, 0, 0, 0])
    endless.view.setUint32(36, 2 ** 32 - 1, true)

    for (const page of [halted, wide, outside, endless]) expect(table.answer(page.buffer)).toBe(false)
    expect(() => table.answer(new ArrayBuffer(64))).toThrow(RangeError)
  })

  test("no page makes it write outside of the page", () => {
    const table = new ExitTable({
      rows: [
        { space: "pio", start: 0, end: 0x8000, read: "cell", write: "sink" },
        { space: "mmio", start: 0, end: 2 ** 40, read: "cell", write: "clear-bits" },
      ],
      sinkSize: 8192,
    })
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 48, maxLength: 48 }), fc.constantFrom(2, 6), (bytes, reason) => {
        const page = new Page()
        new Uint8Array(page.buffer).set(bytes, 8)
        page.view.setUint32(8, reason, true)
        expect(typeof table.answer(page.buffer)).toBe("boolean")
      }),
      { seed: 25, numRuns: 5000 },
    )
  })
})
