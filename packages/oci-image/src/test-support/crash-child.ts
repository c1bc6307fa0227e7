/** A process that does one operation on a store and fails at a step of it: see store/crash.test.ts. */
import { readdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import { isImageError } from "../errors.js"
import { complaintsAfter, copyBegin, runScenario, type ScenarioName } from "./crash-scenarios.js"
import { FailingFs } from "./failing-fs.js"

const [name, folder, step] = process.argv.slice(2) as [ScenarioName, string, string?]
const failing = await FailingFs.install()
const result = step === undefined ? await failEverywhere() : await dieAt(Number(step))
process.stdout.write(JSON.stringify(result))

/** Dies at a step; comes back with the number of steps when there are fewer. */
async function dieAt(step: number): Promise<number> {
  failing.arm(step, "kill")
  await runScenario(name, folder, `kill-${step}`)
  return failing.disarm()
}

/** Has the disk full from every step on, one after the other. */
async function failEverywhere(): Promise<{ steps: number; complaints: string[] }> {
  const complaints: string[] = []
  for (let step = 1; ; step++) {
    const at = `full-${step}`
    copyBegin(folder, at)
    failing.arm(step, "full")
    const error = await runScenario(name, folder, at).then(
      () => undefined,
      error => error,
    )
    const steps = failing.disarm()
    if (steps < step) return { steps, complaints }
    const found = [...leftIn(at), ...wrongError(error), ...(await complaintsAfter(name, folder, at))]
    complaints.push(...found.map(complaint => `step ${step}: ${complaint}`))
    rmSync(join(folder, at), { recursive: true })
  }
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
