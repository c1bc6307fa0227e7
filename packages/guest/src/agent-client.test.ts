import type { Socket } from "node:net"
import { Duplex, PassThrough } from "node:stream"
import { create } from "@bufbuild/protobuf"
import { afterEach, describe, expect, test } from "vitest"
import { AgentClient } from "./agent-client.js"
import { checkText } from "./agent-replies.js"
import {
  AgentService,
  GuestDetailsResponseSchema,
  OOMEventSchema,
  StatsContainerResponseSchema,
  WaitProcessResponseSchema,
} from "./gen/agent_pb.js"
import { type ServiceHandlers, TtrpcServer } from "./ttrpc/server.js"

describe("agent client", () => {
  let client: AgentClient | undefined
  afterEach(() => client?.close())

  function agentWith(handlers: ServiceHandlers<typeof AgentService>): AgentClient {
    const [a, b] = [new PassThrough(), new PassThrough()]
    new TtrpcServer(Duplex.from({ readable: a, writable: b }) as Socket).add(AgentService, handlers)
    client = new AgentClient(Duplex.from({ readable: b, writable: a }))
    return client
  }
  const ref = { containerId: "c", execId: "c" }

  test("says how a process ended, and how much output it left", async () => {
    const reply = create(WaitProcessResponseSchema, { status: 137, stdoutBytes: 5n })
    const agent = agentWith({ waitProcess: () => reply })
    expect(await agent.waitProcess(ref)).toEqual({ exitCode: 137, stdoutBytes: 5, stderrBytes: 0 })
  })

  test("A5: output of more bytes than can be is refused", async () => {
    const reply = create(WaitProcessResponseSchema, { stderrBytes: 2n ** 53n })
    const agent = agentWith({ waitProcess: () => reply })
    await expect(agent.waitProcess(ref)).rejects.toMatchObject({ code: "bad-reply" })
  })

  test.each([256, -1, 2 ** 31 - 1, -(2 ** 31)])("A5: exit status %i is refused", async status => {
    const agent = agentWith({ waitProcess: () => create(WaitProcessResponseSchema, { status }) })
    await expect(agent.waitProcess(ref)).rejects.toMatchObject({ code: "bad-reply" })
  })

  test("gives stats as numbers, and no limit as undefined", async () => {
    const reply = create(StatsContainerResponseSchema, {
      cgroupStats: {
        cpuStats: { cpuUsage: { totalUsage: 5n } },
        memoryStats: { usage: { usage: 4096n, limit: 2n ** 64n - 1n }, stats: { anon: 7n } },
        pidsStats: { current: 3n, limit: 10n },
      },
    })
    const stats = await agentWith({ statsContainer: () => reply }).statsContainer({ containerId: "c" })
    expect(stats.cpu.totalNs).toBe(5)
    expect(stats.memory).toMatchObject({ usage: 4096, limit: undefined, counters: new Map([["anon", 7]]) })
    expect(stats.pids).toEqual({ current: 3, limit: 10 })
  })

  test.each([
    { memoryStats: { usage: { usage: 2n ** 64n - 1n } } },
    { pidsStats: { current: 2n ** 53n } },
    { memoryStats: { stats: Object.fromEntries(Array.from({ length: 257 }, (_, i) => [`k${i}`, 1n])) } },
    { memoryStats: { stats: { "a\u001b[2J": 1n } } },
  ])("A5: stats that cannot be true are refused (%#)", async cgroupStats => {
    const reply = create(StatsContainerResponseSchema, { cgroupStats })
    const agent = agentWith({ statsContainer: () => reply })
    await expect(agent.statsContainer({ containerId: "c" })).rejects.toMatchObject({ code: "bad-reply" })
  })

  test("A5: names with control characters, or too long, are refused", async () => {
    const agent = agentWith({
      getOOMEvent: () => create(OOMEventSchema, { containerId: "x\u0007" }),
      getGuestDetails: () =>
        create(GuestDetailsResponseSchema, { agentDetails: { version: "v".repeat(300) } }),
    })
    await expect(agent.getOomEvent()).rejects.toMatchObject({ code: "bad-reply" })
    await expect(agent.getGuestDetails()).rejects.toMatchObject({ code: "bad-reply" })
    expect(checkText("plain name")).toBe("plain name")
  })

  test("refuses a date that is none", async () => {
    await expect(agentWith({}).setGuestDateTime(new Date(Number.NaN))).rejects.toMatchObject({
      code: "invalid-argument",
    })
  })
})
