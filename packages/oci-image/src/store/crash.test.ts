import { spawn } from "node:child_process"
import { join } from "node:path"
import { text } from "node:stream/consumers"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { bundleChild, type Child } from "../test-support/child.js"
import { prepareScenario, SCENARIOS, type ScenarioName } from "../test-support/crash-scenarios.js"
import { MEMORY, temporaryFolder } from "../test-support/images.js"
import { serveLayouts } from "../test-support/layout-registry.js"

let child: Child

beforeAll(async () => {
  child = await bundleChild("crash-child", true)
})
afterAll(() => child[Symbol.dispose]())

/**
 * Runs the child to its end. It has nothing to complain of, files left open above all. What it does is a great number of
 * short calls of the file system, in which Node's threads would mostly wait for each other: it has one.
 */
async function run(...args: string[]): Promise<{ signal: NodeJS.Signals | null; output: unknown }> {
  const running = spawn(process.execPath, [child.path, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, UV_THREADPOOL_SIZE: "1" },
  })
  const ended = new Promise<NodeJS.Signals | null>(resolve =>
    running.on("exit", (_, signal) => resolve(signal)),
  )
  const [output, complaints, signal] = await Promise.all([text(running.stdout), text(running.stderr), ended])
  expect(complaints).toBe("")
  return { signal, output: JSON.parse(output) }
}

/** One process comes to every step, each on a copy of the store, and dies; another looks at what is left. */
async function killAtEveryStep(name: ScenarioName, folder: string): Promise<void> {
  const { signal, output } = await run("kill", name, folder)
  expect(signal).toBe("SIGKILL")
  const frozen = output as boolean[]
  expect(frozen.length).toBeGreaterThan(5)
  // The last copy comes to its end: there is no further step.
  expect(frozen).toEqual([...frozen.slice(1).fill(true), false])
  expect(await run("check", name, folder)).toEqual({ signal: null, output: [] })
}

describe("I14: killed at every step that changes a file, and the disk full from every step on", () => {
  test.each(Object.keys(SCENARIOS) as ScenarioName[])(
    "%s",
    async name => {
      const folder = temporaryFolder(MEMORY)
      await using registry = await serveLayouts(join(folder, "images"))
      await prepareScenario(name, folder, registry.host)
      const [full] = await Promise.all([run("full", name, folder), killAtEveryStep(name, folder)])
      expect(full).toEqual({ signal: null, output: [] })
      // Where every attempt starts a process that reads layers, there are many of them.
    },
    300_000,
  )
})
