import { expect, test } from "vitest"
import { runWatched } from "./watch.mjs"

type Output = (name: string, bytes: Buffer) => void
const nothing = { onOutput: () => undefined }

/** A host whose commands do what `commands` says, by their first word. */
function falseHost(commands: Record<string, (onOutput: Output) => Promise<{ code: number }>>) {
  const unknown = () => Promise.reject(new Error("no such command"))
  return {
    run: ([name = ""]: string[], { onOutput }: { onOutput: Output }) => ({
      exited: (commands[name] ?? unknown)(onOutput),
    }),
    console: () => ["watchdog: BUG: soft lockup"],
  }
}

test("a command that talks or ends is left alone, however long it takes", async () => {
  const talks = async (onOutput: Output) => {
    for (let i = 0; i < 20; i++) {
      await new Promise(resolve => setTimeout(resolve, 20))
      onOutput("stdout", Buffer.from("."))
    }
    return { code: 3 }
  }
  const said: string[] = []
  const options = { onOutput: (_: string, bytes: Buffer) => said.push(bytes.toString()) }
  expect(await runWatched(falseHost({ talks }), ["talks"], options, 200)).toEqual({ code: 3 })
  expect(said.join("")).toBe(".".repeat(20))
})

test("one that says nothing is given up, with what the host does and what is on its console", async () => {
  const host = falseHost({
    silent: () => new Promise(() => undefined),
    sh: async onOutput => {
      onOutput("stdout", Buffer.from("17 node vitest"))
      return { code: 0 }
    },
  })
  await expect(runWatched(host, ["silent"], nothing, 100)).rejects.toThrow(/said nothing.*17 node.*lockup/s)
})

test("the end of the host is passed on", async () => {
  const host = falseHost({ dies: () => Promise.reject(new Error("the KVM test host ended")) })
  await expect(runWatched(host, ["dies"], nothing)).rejects.toThrow("the KVM test host ended")
})
