import { execFileSync } from "node:child_process"
import { mkdirSync, statSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { describe, expect, test } from "vitest"

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
const AGENT = join(ROOT, "agent")
const SOURCES = ["tests/codec_test.cc", "wire.cc", "messages.cc", "ttrpc.cc"].map(name => join(AGENT, name))
const BUILD_TIMEOUT_MS = 600_000

/** The checks as a program with the address and undefined-behaviour sanitizers, built when it is older. */
function build(): string {
  const output = join(ROOT, "build/tests/codec_test")
  const built = statSync(output, { throwIfNoEntry: false })?.mtimeMs ?? 0
  if (SOURCES.every(path => statSync(path).mtimeMs < built)) return output
  mkdirSync(dirname(output), { recursive: true })
  const flags = [
    "-std=c++17",
    "-O1",
    "-g",
    "-Wall",
    "-Wextra",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
  ]
  execFileSync("g++", [...flags, "-o", output, ...SOURCES], { stdio: "inherit" })
  return output
}

describe("agent: codec under the sanitizers", () => {
  test(
    "A1, A2, A3: hostile messages and frames are refused without harm",
    () => {
      const lines = execFileSync(build(), ["1", "100000"], { encoding: "utf8" }).trim().split("\n")
      expect(lines.filter(line => !line.startsWith("ok "))).toEqual([])
      expect(lines.length).toBeGreaterThan(15)
    },
    BUILD_TIMEOUT_MS,
  )
})
