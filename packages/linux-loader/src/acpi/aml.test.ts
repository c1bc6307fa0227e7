import { describe, expect, test } from "vitest"
import { refusedWith } from "../testing/refused.js"
import { buffer, device, eisaId, integer, method, name, notify, packageOf, scope, string } from "./aml.js"

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex")

describe("AML", () => {
  test.each([
    [0, "00"],
    [1, "01"],
    [2, "0a02"],
    [0xff, "0aff"],
    [0x100, "0b0001"],
    [0xffff, "0bffff"],
    [0x1_0000, "0c00000100"],
    [0xffff_ffff, "0cffffffff"],
    [2 ** 32, "0e0000000001000000"],
  ])("integer %d in its shortest form", (value, expected) => {
    expect(hex(integer(value))).toBe(expected)
  })

  test("names are padded, rooted and counted", () => {
    expect(hex(name("A", integer(0)))).toBe("08415f5f5f00")
    expect(hex(name("\\_SB", integer(0)))).toBe("085c5f53425f00")
    expect(hex(notify("\\_SB.PWRB", 128))).toBe("865c2e5f53425f505752420a80")
    expect(hex(notify("A.B.C", 1))).toBe("862f03415f5f5f425f5f5f435f5f5f01")
  })

  test("EISA ids are packed as the compiler packs them", () => {
    expect(hex(eisaId("PNP0501"))).toBe("0c41d00501")
    expect(hex(eisaId("PNP0C0C"))).toBe("0c41d00c0c")
  })

  test("strings, buffers, packages and methods", () => {
    expect(hex(string("hi"))).toBe("0d686900")
    expect(hex(buffer(Uint8Array.of(1, 2)))).toBe("11050a020102")
    expect(hex(packageOf([integer(5), integer(0)]))).toBe("1205020a0500")
    expect(hex(method("_EVT", 1, []))).toBe("14065f45565409")
    expect(hex(device("D", []))).toBe("5b8205445f5f5f")
  })

  test.each([
    // Whole length including its own encoding, and that encoding.
    [58, 63, "3f"],
    [59, 65, "4104"],
    [4089, 4095, "4fff"],
    [4090, 4097, "810001"],
    [2 ** 20, 2 ** 20 + 8, "c8000001"],
  ])("a length with %d bytes of content is encoded with its own bytes counted", (content, length, prefix) => {
    const encoded = scope("S", [new Uint8Array(content)])
    expect(encoded.length).toBe(1 + length)
    expect(hex(encoded.subarray(1, 1 + prefix.length / 2))).toBe(prefix)
  })

  test.each([
    ["a negative integer", () => integer(-1)],
    ["a fraction", () => integer(0.5)],
    ["an integer above 2^53", () => integer(2 ** 53)],
    ["a non-ASCII string", () => string("é")],
    ["a string with a NUL", () => string("a\0")],
    ["an EISA id in lower case", () => eisaId("pnp0501")],
    ["a name of five characters", () => name("ABCDE", integer(0))],
    ["a name that starts with a digit", () => name("1A", integer(0))],
    ["an empty name", () => name("", integer(0))],
    ["a package of 256", () => packageOf(Array.from({ length: 256 }, () => integer(0)))],
  ])("refuses %s", (_, encode) => {
    refusedWith("invalid-argument", encode)
  })
})
