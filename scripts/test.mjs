// npm test [-- VITEST-ARGUMENTS]: the same set-up as npm start, then lint, types and every test.
import { IMAGES, localImage } from "./images/index.mjs"
import { setUp } from "./setup/index.mjs"
import { CACHE, ROOT } from "./setup/paths.mjs"
import { main, note, step } from "./setup/report.mjs"
import { run, runAttached } from "./setup/run.mjs"
import { stockKernel } from "./setup/stock-kernel.mjs"
import { readResults } from "./test-results.mjs"

const RESULTS = `${CACHE}/test-results.json`
const BIN = `${ROOT}/node_modules/.bin`

/** What the tests take from the cache; made here so that no test's time limit has to allow for it. */
async function fixtures() {
  for (const image of IMAGES) await localImage(image)
  await stockKernel()
}

/** Runs a check without stopping at its failure; resolves with what to say about it. */
async function check(name, command, args) {
  try {
    await step(name, () => run(command, args, { cwd: ROOT }))
    return []
  } catch (error) {
    note(error.output || error.message)
    return [`${name} failed`]
  }
}

async function vitest(args) {
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${RESULTS}`]
  return runAttached(
    process.execPath,
    [`${ROOT}/node_modules/vitest/vitest.mjs`, "run", ...reporters, ...args],
    { cwd: ROOT },
  )
}

await main(async () => {
  const args = process.argv.slice(2)
  const isWhole = args.length === 0
  const since = performance.now()
  await setUp({ groups: ["build", "start", "test"], types: isWhole })
  await fixtures()
  // A choice of tests is for working on them: the checks of the whole are left to the whole.
  const checks = isWhole
    ? [
        check("lint", `${BIN}/biome`, ["check", "--error-on-warnings", "."]),
        check("typecheck", `${BIN}/tsc`, ["--noEmit", "-p", "tsconfig.json"]),
      ]
    : []
  const faults = (await Promise.all(checks)).flat()
  const code = await vitest(args)
  const results = readResults(RESULTS, since)
  if (isWhole) faults.push(...results.faults)
  const failed = results.failed + faults.length
  for (const fault of faults) note(`error: ${fault}`)
  note(`  everything took ${((performance.now() - since) / 60_000).toFixed(1)} min`)
  process.stdout.write(`tests: ${results.passed} passed, ${failed} failed, ${results.skipped} skipped\n`)
  return code || (failed > 0 ? 1 : 0)
})
