import { GuestError } from "@ts-vmm/guest/artifacts"
import { expect, test } from "vitest"
import { SandboxEmitter } from "../events.js"
import { watchGuest } from "./watchdog.js"

/** An agent with these answers, one after the other, and then none any more: its connection is closed. */
function agentWith(...answers: readonly ("yes" | "timeout" | "rpc")[]) {
  const asked: (number | undefined)[] = []
  const left = [...answers]
  const check = async ({ timeoutMs }: { timeoutMs?: number } = {}) => {
    asked.push(timeoutMs)
    const answer = left.shift() ?? "closed"
    if (answer === "yes") return true
    throw new GuestError(answer, answer)
  }
  return { check, asked }
}

async function watch(agent: ReturnType<typeof agentWith>): Promise<string[]> {
  const told: string[] = []
  const sandbox = new SandboxEmitter()
  sandbox.on("unresponsive", ms => told.push(ms >= 0 ? "unresponsive" : "nonsense"))
  sandbox.on("responsive", () => told.push("responsive"))
  await watchGuest(agent, 2, sandbox)
  return told
}

test("a guest that answers is no event, and the end of the connection is the end", async () => {
  const agent = agentWith("yes", "yes", "yes")
  expect(await watch(agent)).toEqual([])
  expect(agent.asked).toEqual([2, 2, 2, 2])
})

test("silence is told once, and so is its end", async () => {
  const agent = agentWith("yes", "timeout", "timeout", "yes", "timeout", "timeout")
  expect(await watch(agent)).toEqual(["unresponsive", "responsive", "unresponsive"])
})

test("without a limit nothing is asked", async () => {
  const agent = agentWith("yes")
  await watchGuest(agent, undefined, new SandboxEmitter())
  expect(agent.asked).toEqual([])
})

test("an agent that answers with an error is the caller's to hear of", async () => {
  await expect(watch(agentWith("yes", "rpc"))).rejects.toMatchObject({ code: "rpc" })
})
