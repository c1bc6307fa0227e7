import { describe, expect, test } from "vitest"
import { ChangeListReader } from "./changes.js"

function read(...chunks: (string | Buffer)[]) {
  const reader = new ChangeListReader()
  for (const chunk of chunks) reader.push(typeof chunk === "string" ? Buffer.from(chunk, "latin1") : chunk)
  return reader.end()
}

describe("the list of a container's changes", () => {
  test("is read from pieces of any size, and sorted", () => {
    const text = "Cb\0Ab/new file\0Da\0Cb/\xff\0"
    const expected = [
      { kind: "deleted", path: "/a" },
      { kind: "changed", path: "/b" },
      { kind: "added", path: "/b/new file" },
      { kind: "changed", path: "/b/\ufffd" },
    ]
    expect(read(text)).toEqual(expected)
    expect(read(...text)).toEqual(expected)
    expect(read()).toEqual([])
  })

  test.each([
    ["no kind", "\0"],
    ["an unknown kind", "Xa\0"],
    ["no path", "A\0"],
    ["an absolute path", "A/a\0"],
    ["a way up", "Aa/../b\0"],
    ["a dot", "A./b\0"],
    ["an empty name", "Aa//b\0"],
    ["a name of 256 bytes", `A${"x".repeat(256)}\0`],
    ["a path of 4097 bytes", `A${"x/".repeat(2048)}y\0`],
    ["no end", "Aa"],
    ["a path without an end", `A${"x/".repeat(3000)}`],
  ])("with %s is refused", (_, text) => {
    expect(() => read(text)).toThrow(expect.objectContaining({ code: "bad-reply" }))
  })

  test("is bounded in number and in bytes", { timeout: 180_000 }, () => {
    const reader = new ChangeListReader()
    for (let i = 0; i < 10; i++) reader.push(Buffer.from("Aa\0".repeat(100_000)))
    expect(() => reader.push(Buffer.from("Aa\0"))).toThrow(/more than 1000000 changes/)
    const long = new ChangeListReader()
    const chunk = Buffer.from(`A${"x".repeat(200)}/${"y".repeat(250)}/${"z".repeat(250)}\0`.repeat(5000))
    expect(() => {
      for (let i = 0; i < 100; i++) long.push(chunk)
    }).toThrow(/more than 134217728 bytes/)
  })
})
