import { spawn } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { expect, test } from "vitest"

test("all of this package's tests pass under AddressSanitizer and UndefinedBehaviorSanitizer", async context => {
  const script = fileURLToPath(new URL("../scripts/test-sanitize.mjs", import.meta.url))
  // The run inside must not take itself for a part of this one.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("VITEST")))
  const child = spawn(process.execPath, [script], { env, stdio: ["ignore", "pipe", "pipe"] })
  let output = ""
  child.stdout.on("data", chunk => {
    output += chunk
  })
  child.stderr.on("data", chunk => {
    output += chunk
  })

  const [code] = await once(child, "close")
  context.skip(code === 77, "libasan is not installed (Debian: libasan8)")

  expect(code, output).toBe(0)
}, 900_000)
