// What the command line says reaches whoever reads it.
import { execFileSync } from "node:child_process"
import { expect, test } from "vitest"
import { CLI } from "./cli.js"

/** What a pipe holds (pipe(7)). */
const PIPE_SIZE = 65_536
const version = `${process.execPath} ${CLI} version`

test("the program's end waits for a reader that is slow", () => {
  const { length } = execFileSync("sh", ["-c", version])
  expect(length).toBeGreaterThan(0)
  const full = `(head -c ${PIPE_SIZE} /dev/zero; exec ${version}) | (sleep 2; wc -c)`
  expect(Number(execFileSync("sh", ["-c", full]))).toBe(PIPE_SIZE + length)
})

test("and not for one that has gone", () => {
  const full = `(head -c ${PIPE_SIZE} /dev/zero; exec ${version}) | true`
  expect(execFileSync("sh", ["-c", full]).length).toBe(0)
})
