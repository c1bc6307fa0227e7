/** A process that does one operation on many copies of a store and fails at another step of each: see store/crash.test.ts. */
import { existsSync, readdirSync, rmSync, writeSync } from "node:fs"
import { join } from "node:path"
import { isImageError } from "../errors.js"
import { complaintsAfter, copyBegin, runScenario, type ScenarioName } from "./crash-scenarios.js"
import { type Ended, FailingFs, type Failure } from "./failing-fs.js"

const [task, name, folder] = process.argv.slice(2) as ["kill" | "check" | "full", ScenarioName, string]
const failing = await FailingFs.install()
const TASKS = { kill, check, full }
process.stdout.write(JSON.stringify(await TASKS[task]()))

/** Does the operation on a fresh copy. */
function attempt(at: string, failure: Failure, step: number): Promise<Ended> {
  copyBegin(folder, at)
  return failing.attempt(failure, step, () => runScenario(name, folder, at))
}

/** Dies at every step, and behind the last one. Before that it tells how each of its attempts stands. */
async function kill(): Promise<void> {
  const { steps } = await attempt("count", "freeze", Number.POSITIVE_INFINITY)
  const attempts = Array.from({ length: steps + 1 }, (_, i) => attempt(`kill-${i + 1}`, "freeze", i + 1))
  const ended = await Promise.all(attempts)
  writeSync(1, JSON.stringify(ended.map(({ frozen, error }) => (error ? `${error}` : frozen))))
  process.kill(process.pid, "SIGKILL")
}

/** Looks at what dying at every step left. */
async function check(): Promise<string[]> {
  const complaints: string[] = []
  for (let step = 1; existsSync(join(folder, `kill-${step}`)); step++)
    complaints.push(...(await complaintsAt(step, `kill-${step}`)))
  return complaints
}

/** Has the disk full from every step on, one after the other, until there is no such step. */
async function full(): Promise<string[]> {
  const complaints: string[] = []
  for (let step = 1; ; step++) {
    const at = `full-${step}`
    const { steps, error } = await attempt(at, "full", step)
    complaints.push(...[...leftIn(at), ...wrongError(error)].map(complaint => `step ${step}: ${complaint}`))
    complaints.push(...(await complaintsAt(step, at)))
    if (steps < step) return complaints
  }
}

async function complaintsAt(step: number, at: string): Promise<string[]> {
  const complaints = await complaintsAfter(name, folder, at)
  rmSync(join(folder, at), { recursive: true })
  return complaints.map(complaint => `step ${step}: ${complaint}`)
}

/** What a failure left that only opening the store would take away. */
function leftIn(at: string): string[] {
  const kept = ["tmp", "leases"].filter(name => readdirSync(join(folder, at, "store", name)).length > 0)
  return kept.map(name => `something is left in ${name}/`)
}

/** Steps that only remove things succeed on a full disk; any other says what is the matter. */
function wrongError(error: unknown): string[] {
  if (error === undefined || (isImageError(error) && error.fields.errno === "ENOSPC")) return []
  return [`failed with ${error}`]
}
