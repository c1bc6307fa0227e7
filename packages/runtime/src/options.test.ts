import { expect, test } from "vitest"
import { checkOptions, type SandboxOptions } from "./options.js"

const agentTimeoutOf = (options: Partial<SandboxOptions>) =>
  checkOptions({ image: "debian", ...options }).agentTimeoutMs

test("a guest that may take long to start may take as long to answer, unless said otherwise", () => {
  expect(agentTimeoutOf({})).toBe(30_000)
  expect(agentTimeoutOf({ timeoutMs: 100 })).toBe(30_000)
  expect(agentTimeoutOf({ timeoutMs: 240_000.5 })).toBe(240_001)
  expect(agentTimeoutOf({ timeoutMs: 240_000, agentTimeoutMs: 500 })).toBe(500)
})
