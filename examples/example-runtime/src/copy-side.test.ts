import { expect, test } from "vitest"
import { parseCopySide } from "./copy-side.js"

test.each([
  ["-", { kind: "stream" }],
  ["web:/etc/hosts", { kind: "sandbox", name: "web", path: "/etc/hosts" }],
  ["web:etc:x/.", { kind: "sandbox", name: "web", path: "etc:x/." }],
  ["file", { kind: "host", path: "file" }],
  ["/a:b", { kind: "host", path: "/a:b" }],
  ["./a:b", { kind: "host", path: "./a:b" }],
  [".", { kind: "host", path: "." }],
])("%s reads as docker reads it", (text, side) => expect(parseCopySide(text)).toEqual(side))

test.each(["", "web:", ":/x"])("%j is refused", text => {
  expect(() => parseCopySide(text)).toThrow("invalid")
})
