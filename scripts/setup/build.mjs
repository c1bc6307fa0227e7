import { availableParallelism } from "node:os"
import { buildPlan } from "./build-plan.mjs"
import { withLock } from "./lock.mjs"
import { step as report, SetupError } from "./report.mjs"
import { exists, keyOf, requireWritable } from "./stamps.mjs"

/** Declarations take a compiler process of some 400 MB each: two at a time are enough. */
const PARALLEL = Math.min(2, availableParallelism())

const keyOfStep = step => keyOf(step.inputs, step.facts)
const isStale = (stamps, step) => !step.outputs.every(exists) || !stamps.isCurrent(step.name, keyOfStep(step))

async function perform(stamps, step) {
  const key = keyOfStep(step) // taken before the work: a change during it is seen next time
  await report(step.name, step.work)
  const absent = step.outputs.filter(output => !exists(output))
  if (absent.length > 0) throw new SetupError(`${step.name} succeeded without making ${absent.join(", ")}`)
  stamps.set(step.name, key)
}

/** Runs steps, at most PARALLEL at once, each after those that it waits for; after a failure nothing new begins. */
async function performAll(stamps, steps) {
  const waiting = [...steps]
  const open = new Set(steps.map(step => step.name))
  const running = new Set()
  const begin = step => {
    waiting.splice(waiting.indexOf(step), 1)
    const work = perform(stamps, step).then(() => open.delete(step.name))
    running.add(work)
    return work.finally(() => running.delete(work))
  }
  const next = () => waiting.find(step => step.after.every(name => !open.has(name)))
  try {
    while (waiting.length > 0 || running.size > 0) {
      for (let step = next(); step && running.size < PARALLEL; step = next())
        begin(step).catch(() => undefined)
      await Promise.race(running)
    }
  } finally {
    await Promise.allSettled(running)
  }
}

/**
 * Builds what is not up to date.
 * @param {import("./stamps.mjs").Stamps} stamps
 * @param {{ types?: boolean }} [options] types: the packages' declarations too
 */
export async function build(stamps, { types = false } = {}) {
  const plan = buildPlan({ types })
  if (!plan.some(step => isStale(stamps, step))) return
  requireWritable()
  await withLock("build", async () => {
    stamps.reload()
    await performAll(
      stamps,
      plan.filter(step => isStale(stamps, step)),
    )
  })
}
