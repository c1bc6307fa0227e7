import { setTimeout as sleep } from "node:timers/promises"
import { afterEach, expect, test, vi } from "vitest"
import { HostStandsStill, runWatched } from "./watch.mjs"

/** The same by timers that a test can have for its own. */
vi.mock("node:timers/promises", () => ({
  setTimeout: (ms: number, value?: unknown, { signal }: { signal?: AbortSignal } = {}) =>
    new Promise((resolve, reject) => {
      const onAbort = () => {
        clearTimeout(timer)
        reject(signal?.reason)
      }
      const timer = setTimeout(() => {
        signal?.removeEventListener("abort", onAbort)
        resolve(value)
      }, ms)
      signal?.addEventListener("abort", onAbort)
    }),
}))

afterEach(() => {
  vi.useRealTimers()
})

type Output = (name: string, bytes: Buffer) => void
const nothing = { onOutput: () => undefined }
const never = () => new Promise<never>(() => undefined)

/** A host whose commands do what `commands` says, by their first word. */
function falseHost(
  commands: Record<string, (onOutput: Output) => Promise<{ code: number }>>,
  ping = () => Promise.resolve(),
) {
  const unknown = () => Promise.reject(new Error("no such command"))
  return {
    run: ([name = ""]: string[], { onOutput }: { onOutput: Output }) => ({
      exited: (commands[name] ?? unknown)(onOutput),
    }),
    ping,
    console: () => ["watchdog: BUG: soft lockup"],
  }
}

test("a command that talks and ends is left alone, however long it takes", async () => {
  // No time but the test's: a machine that pauses this process for longer than the command may be silent is none of it.
  vi.useFakeTimers()
  const talks = async (onOutput: Output) => {
    for (let i = 0; i < 20; i++) {
      await sleep(20)
      onOutput("stdout", Buffer.from("."))
    }
    return { code: 3 }
  }
  const said: string[] = []
  const options = { onOutput: (_: string, bytes: Buffer) => said.push(bytes.toString()) }
  const limits = { silenceMs: 300, deafMs: 100 }
  const watched = runWatched(falseHost({ talks }), ["talks"], options, limits)
  await vi.advanceTimersByTimeAsync(20 * 20)
  expect(await watched).toEqual({ code: 3 })
  expect(said.join("")).toBe(".".repeat(20))
})

test("one that says nothing is given up, with what the host does and what is on its console", async () => {
  const listing = async (onOutput: Output) => {
    onOutput("stdout", Buffer.from("17 node vitest"))
    return { code: 0 }
  }
  const host = falseHost({ silent: never, sh: listing })
  const given = runWatched(host, ["silent"], nothing, { silenceMs: 100 })
  await expect(given).rejects.toThrow(/nothing was heard.*17 node.*lockup/s)
  await expect(given).rejects.not.toBeInstanceOf(HostStandsStill)
})

test("a host that does not answer any more is told from that", async () => {
  let answers = 2
  const host = falseHost({ silent: never }, () => (answers-- > 0 ? Promise.resolve() : never()))
  const given = runWatched(host, ["silent"], nothing, { deafMs: 50 })
  await expect(given).rejects.toThrow(HostStandsStill)
  await expect(given).rejects.toThrow(/lockup/)
})

test("the end of the host is passed on", async () => {
  const host = falseHost({ dies: () => Promise.reject(new Error("the KVM test host ended")) })
  await expect(runWatched(host, ["dies"], nothing)).rejects.toThrow("the KVM test host ended")
})
