import { spawn } from "node:child_process"
import { rmSync } from "node:fs"
import { dirname, join } from "node:path"
import { text } from "node:stream/consumers"
import { fileURLToPath } from "node:url"
import { build } from "tsup"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import {
  complaintsAfter,
  copyBegin,
  prepareScenario,
  SCENARIOS,
  type ScenarioName,
} from "../test-support/crash-scenarios.js"
import { temporaryFolder } from "../test-support/images.js"

/** Processes at once: what they do most is wait for the disk. */
const PARALLEL = 4
const CHILD = fileURLToPath(new URL("../test-support/crash-child.ts", import.meta.url))
let child: string

// A process of its own cannot read sources as tests do; a bundle also starts faster.
beforeAll(async () => {
  const outDir = join(dirname(CHILD), `../../node_modules/.crash-${process.pid}`)
  await build({
    ...{ entry: [CHILD], outDir, format: "esm", noExternal: [/./], outExtension: () => ({ js: ".mjs" }) },
    ...{ config: false, dts: false, silent: true, sourcemap: false, splitting: false },
  })
  child = join(outDir, "crash-child.mjs")
})
afterAll(() => rmSync(dirname(child), { recursive: true }))

interface Ended {
  readonly signal: NodeJS.Signals | null
  readonly output: string
}

/** Runs the child to its end. It has nothing to complain of, files left open above all. */
async function run(...args: string[]): Promise<Ended> {
  const running = spawn(process.execPath, [child, ...args], { stdio: ["ignore", "pipe", "pipe"] })
  const ended = new Promise<NodeJS.Signals | null>(resolve =>
    running.on("exit", (_, signal) => resolve(signal)),
  )
  const [output, complaints, signal] = await Promise.all([text(running.stdout), text(running.stderr), ended])
  expect(complaints).toBe("")
  return { output, signal }
}

const names = Object.keys(SCENARIOS) as ScenarioName[]

describe("I14: killed at every step that changes a file", () => {
  /** @returns whether there was such a step */
  async function killAt(name: ScenarioName, folder: string, step: number): Promise<boolean> {
    const at = `kill-${step}`
    copyBegin(folder, at)
    const { signal, output } = await run(name, folder, `${step}`)
    if (signal === null) {
      expect(Number(output)).toBeLessThan(step)
      return false
    }
    expect(signal).toBe("SIGKILL")
    expect([step, await complaintsAfter(name, folder, at)]).toEqual([step, []])
    rmSync(join(folder, at), { recursive: true })
    return true
  }

  test.each(names)("%s", async name => {
    const folder = temporaryFolder()
    await prepareScenario(name, folder)
    let [step, killed] = [0, 0]
    const work = async () => {
      while (await killAt(name, folder, ++step)) killed++
    }
    await Promise.all(Array.from({ length: PARALLEL }, work))
    expect(killed).toBeGreaterThan(4)
    console.log(name, killed)
  })
})

describe("I14: the disk full from every step on", () => {
  test.each(names)("%s", async name => {
    const folder = temporaryFolder()
    await prepareScenario(name, folder)
    const { output } = await run(name, folder)
    const { steps, complaints } = JSON.parse(output) as { steps: number; complaints: string[] }
    expect(complaints).toEqual([])
    expect(steps).toBeGreaterThan(4)
  })
})
