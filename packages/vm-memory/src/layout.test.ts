import { describe, expect, test } from "vitest"
import { array, bytes, i32, i64, Layout, struct, u8, u16, u32, u64 } from "./layout.js"

const fields = { index: u32(), flags: u16(), kind: u8(), pad: u8(), address: u64(), delta: i64() }

describe("layout", () => {
  test("decodes what it encodes, with every bit of a u64", () => {
    const layout = struct(fields)
    const value = { index: 0xffff_fffe, flags: 0x1234, kind: 7, pad: 0, address: 2n ** 64n - 3n, delta: -5n }
    expect(layout.span).toBe(24)
    expect(layout.decode(layout.toBytes(value))).toEqual(value)
  })

  test("is little-endian and honours the offset", () => {
    const into = new Uint8Array(16)
    u64().encode(0x0102_0304_0506_0708n, into, 4)
    expect([...into.subarray(4, 12)]).toEqual([8, 7, 6, 5, 4, 3, 2, 1])
  })

  test("nests and repeats", () => {
    const point = struct({ x: i32(), y: i32() })
    const line = struct({ name: bytes(4), points: array(point, 2) })
    const value = {
      name: Uint8Array.of(1, 2, 3, 4),
      points: [
        { x: -1, y: 1 },
        { x: 2, y: -2 },
      ],
    }
    const decoded = line.decode(line.toBytes(value))
    expect(decoded.points).toEqual(value.points)
    expect(decoded.name).toEqual(Uint8Array.of(1, 2, 3, 4))
    expect(() => bytes(4).toBytes(new Uint8Array(5))).toThrow(TypeError)
  })

  test("knows where its fields lie", () => {
    expect(Layout.offsets(fields)).toEqual({ index: 0, flags: 4, kind: 6, pad: 7, address: 8, delta: 16 })
  })

  test("refuses short input and values that do not fit", () => {
    expect(() => struct(fields).decode(new Uint8Array(23))).toThrow(RangeError)
    expect(() => u32().decode(new Uint8Array(8), 5)).toThrow(RangeError)
    expect(() => u32().decode(new Uint8Array(8), -1)).toThrow(RangeError)
    expect(() => u64().encode(2n ** 64n, new Uint8Array(8))).toThrow(RangeError)
    expect(() => u64().encode(5 as unknown as bigint, new Uint8Array(8))).toThrow(TypeError)
  })

  test("works on a view into the middle of a buffer", () => {
    const view = new Uint8Array(new ArrayBuffer(32), 8, 8)
    u32().encode(0xdead_beef, view, 4)
    expect(new Uint8Array(view.buffer).indexOf(0xef)).toBe(12)
  })
})
