import { expect, test } from "vitest"
import { ConsoleLog, escapeControls } from "./console-log.js"

test("C1: keeps the end of the console and no more", () => {
  const log = new ConsoleLog()
  for (let i = 0; i < 10_000; i++) log.push(Buffer.from(`line ${i} ${"x".repeat(100)}\n`))
  expect(log.lastLines(1)).toMatch(/^line 9999 /)
  expect(log.lastLines(1_000_000).length).toBeLessThanOrEqual(64 * 1024)
})

test("C1: one huge piece is cut too", () => {
  const log = new ConsoleLog()
  log.push(Buffer.alloc(10 << 20, "y"))
  expect(log.lastLines(1).length).toBeLessThanOrEqual(64 * 1024)
})

test("C3: escape sequences become visible", () => {
  expect(escapeControls("\u001b]0;owned\u0007 \u009b31m red\r")).toBe("\\x1b]0;owned\\x07 \\x9b31m red\\x0d")
})
