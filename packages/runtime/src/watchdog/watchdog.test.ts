import { GuestError } from "@ts-vmm/guest/artifacts"
import { afterEach, beforeEach, expect, test, vi } from "vitest"
import { SandboxEmitter } from "../events.js"
import { watchGuest } from "./watchdog.js"

/** How long an answer may take. */
const LIMIT_MS = 20

/**
 * An agent with these answers, one after the other, and then none any more: its connection is closed. The time that a late
 * one is given up is told by a clock that was stopped.
 */
function agentWith(...answers: readonly ("yes" | "timeout" | "late timeout" | "rpc")[]) {
  const asked: (number | undefined)[] = []
  const left = [...answers]
  const check = async ({ timeoutMs }: { timeoutMs?: number } = {}) => {
    asked.push(timeoutMs)
    const answer = left.shift() ?? "closed"
    if (answer === "yes") return true
    if (answer === "late timeout") {
      now += 100 * LIMIT_MS
      throw new GuestError("timeout", answer)
    }
    throw new GuestError(answer, answer)
  }
  return { check, asked }
}

let now: number
beforeEach(() => {
  now = 0
  vi.spyOn(performance, "now").mockImplementation(() => now)
})
afterEach(() => void vi.restoreAllMocks())

async function watch(agent: ReturnType<typeof agentWith>): Promise<string[]> {
  const told: string[] = []
  const sandbox = new SandboxEmitter()
  sandbox.on("unresponsive", ms => told.push(ms >= 0 ? "unresponsive" : "nonsense"))
  sandbox.on("responsive", () => told.push("responsive"))
  await watchGuest(agent, LIMIT_MS, sandbox)
  return told
}

test("a guest that answers is no event, and the end of the connection is the end", async () => {
  const agent = agentWith("yes", "yes", "yes")
  expect(await watch(agent)).toEqual([])
  expect(agent.asked).toEqual(new Array(4).fill(LIMIT_MS))
})

test("silence is told once, and so is its end", async () => {
  const agent = agentWith("yes", "timeout", "timeout", "yes", "timeout", "timeout")
  expect(await watch(agent)).toEqual(["unresponsive", "responsive", "unresponsive"])
})

test("a host that stood still is no guest that is silent", async () => {
  expect(await watch(agentWith("yes", "late timeout", "yes"))).toEqual([])
  const agent = agentWith("yes", "late timeout", "timeout", "late timeout", "timeout")
  expect(await watch(agent)).toEqual(["unresponsive"])
})

test("without a limit nothing is asked", async () => {
  const agent = agentWith("yes")
  await watchGuest(agent, undefined, new SandboxEmitter())
  expect(agent.asked).toEqual([])
})

test("an agent that answers with an error is the caller's to hear of", async () => {
  await expect(watch(agentWith("yes", "rpc"))).rejects.toMatchObject({ code: "rpc" })
})
