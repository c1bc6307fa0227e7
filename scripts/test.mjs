// npm test [-- VITEST-ARGUMENTS]: the same set-up as npm start, then lint, types and every test.
import { IMAGES, localImage } from "./images/index.mjs"
import { runKvmTests } from "./kvm-tests.mjs"
import { setUp } from "./setup/index.mjs"
import { CACHE, ROOT } from "./setup/paths.mjs"
import { main, note, step } from "./setup/report.mjs"
import { run, runAttached } from "./setup/run.mjs"
import { stockKernel } from "./setup/stock-kernel.mjs"
import { unpackedPackage } from "./setup/unpacked-package.mjs"
import { HOST_PROJECTS, MACHINE_PROJECTS, readResults } from "./test-results.mjs"

const RESULTS = `${CACHE}/test-results.json`
const KVM_RESULTS = `${CACHE}/test-results-kvm.json`
const BIN = `${ROOT}/node_modules/.bin`

/** What the tests take from the cache; made here so that no test's time limit has to allow for it. */
async function fixtures() {
  for (const image of IMAGES) await localImage(image)
  await stockKernel()
  // Headers of a newer kernel than this system's, for both architectures: what the KVM bindings were generated from.
  await unpackedPackage({ name: "linux-libc-dev", suite: "sid" })
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
  const projects = Object.keys(MACHINE_PROJECTS).flatMap(name => ["--project", name])
  return runAttached(
    process.execPath,
    [`${ROOT}/node_modules/vitest/vitest.mjs`, "run", ...projects, ...reporters, ...args],
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
  let code = await vitest(args)
  const results = [readResults(RESULTS, since, MACHINE_PROJECTS)]
  if (isWhole) {
    code = (await runKvmTests(KVM_RESULTS)) || code
    results.push(readResults(KVM_RESULTS, since, HOST_PROJECTS))
    faults.push(...results.flatMap(one => one.faults))
  }
  const total = name => results.reduce((sum, one) => sum + one[name], 0)
  const failed = total("failed") + faults.length
  // Once more at the end, where whoever has only the end of the output looks for them.
  for (const fault of [...results.flatMap(one => one.failures), ...faults]) note(`error: ${fault}`)
  note(`  everything took ${((performance.now() - since) / 60_000).toFixed(1)} min`)
  process.stdout.write(`tests: ${total("passed")} passed, ${failed} failed, ${total("skipped")} skipped\n`)
  return code || (failed > 0 ? 1 : 0)
})
