import { PassThrough } from "node:stream"
import type { AgentClient, ProcessEnd } from "@ts-vmm/guest"
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest"
import { SandboxProcess } from "./process.js"

/** A program in a guest of which only streams and end are seen. */
function program() {
  const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()]
  let end: (end: ProcessEnd) => void = () => undefined
  const ended = new Promise<ProcessEnd>(resolve => {
    end = resolve
  })
  const address = { containerId: "c", execId: "e" }
  const process = new SandboxProcess({} as AgentClient, address, { stdin, stdout, stderr }, ended)
  return { process, stdout, stderr, end }
}

describe("collect", () => {
  beforeEach(() => {
    vi.useFakeTimers()
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  test("waits for what the program wrote, however long it is on its way", async () => {
    const { process, stdout, stderr, end } = program()
    const collected = process.collect(100)
    end({ exitCode: 3, stdoutBytes: 5, stderrBytes: 2 })
    stdout.write("hel")
    stderr.write("no")
    await vi.advanceTimersByTimeAsync(60_000)
    stdout.end("lo")
    stderr.end()
    const { exitCode, stdout: out, stderr: err } = await collected
    expect({ exitCode, out: String(out), err: String(err) }).toEqual({ exitCode: 3, out: "hello", err: "no" })
  })

  test("does not wait long for children that keep the output open", async () => {
    const { process, stdout, end } = program()
    const collected = process.collect(100)
    stdout.write("mine")
    end({ exitCode: 0, stdoutBytes: 4, stderrBytes: 0 })
    await vi.advanceTimersByTimeAsync(2_000)
    expect(String((await collected).stdout)).toBe("mine")
  })

  test("A5: streams that end early end the wait for bytes that were only promised", async () => {
    const { process, stdout, stderr, end } = program()
    const collected = process.collect(100)
    end({ exitCode: 0, stdoutBytes: Number.MAX_SAFE_INTEGER, stderrBytes: 0 })
    stdout.end("all")
    stderr.end()
    expect(String((await collected).stdout)).toBe("all")
  })

  test("A5: bytes that are promised and never come end at the caller's limit", async () => {
    const { process, end } = program()
    const collected = process.collect(100, { timeoutMs: 5_000 })
    collected.catch(() => undefined)
    end({ exitCode: 0, stdoutBytes: 1, stderrBytes: 0 })
    await vi.advanceTimersByTimeAsync(5_000)
    await expect(collected).rejects.toMatchObject({ code: "timeout" })
  })

  test("A6: more than asked for is an error, also after the end", async () => {
    const { process, stdout, end } = program()
    const collected = process.collect(3)
    collected.catch(() => undefined)
    end({ exitCode: 0, stdoutBytes: 4, stderrBytes: 0 })
    stdout.write("four")
    await expect(collected).rejects.toMatchObject({ code: "output-too-large" })
  })
})
