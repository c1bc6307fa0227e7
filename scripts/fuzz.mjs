// npm run fuzz -- DEVICE… [--executions N] [--seed N]: so many random cases for each of the devices, the same ones for
// the same seed, with executions a second and how much of the device's sources they reach.
import { parseArgs } from "node:util"
import { setUp } from "./setup/index.mjs"
import { ROOT } from "./setup/paths.mjs"
import { main, SetupError } from "./setup/report.mjs"
import { runAttached } from "./setup/run.mjs"

/** Targets of test/fuzz for each device; they share its executions. */
const DEVICES = {
  blk: { file: "devices", targets: ["block", "block-read-only"] },
  console: { file: "devices", targets: ["console"] },
  rng: { file: "devices", targets: ["rng"] },
  vsock: { file: "vsock", targets: ["vsock"] },
  "vsock-chains": { file: "devices", targets: ["vsock-chains"] },
  balloon: { file: "balloon", targets: ["balloon"] },
  mem: { file: "memory-devices", targets: ["mem"] },
  pmem: { file: "memory-devices", targets: ["pmem"] },
  net: { file: "net", targets: ["net", "net-packets"] },
  "net-socket": { file: "net-socket", targets: ["net-socket"] },
  fs: { file: "fs", targets: ["fs"] },
  mmio: { file: "mmio", targets: ["mmio"] },
  "vhost-user": { file: "vhost-user", targets: ["vhost-user"] },
  "split-queue": { file: "split-queue", targets: ["split-queue"] },
  "packed-queue": { file: "packed-queue", targets: ["packed-queue"] },
}
const NAMES = Object.keys(DEVICES)
const USAGE = `usage: npm run fuzz -- {${NAMES.join("|")}}… [--executions N] [--seed N]`
const DEFAULTS = { executions: "1000000", seed: "1" }

function whole(name, text, least) {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < least || value > 0xffff_ffff)
    throw new Error(`--${name} ${text}: a whole number from ${least} to 4294967295`)
  return value
}

function readArguments() {
  try {
    const options = {
      executions: { type: "string", default: DEFAULTS.executions },
      seed: { type: "string", default: DEFAULTS.seed },
    }
    const { values, positionals } = parseArgs({ options, allowPositionals: true })
    if (positionals.length === 0) throw new Error("no device")
    const unknown = positionals.filter(name => !NAMES.includes(name))
    if (unknown.length > 0) throw new Error(`there is no device ${unknown.join(", ")}`)
    return {
      devices: positionals,
      executions: whole("executions", values.executions, 1),
      seed: whole("seed", values.seed, 0),
    }
  } catch (error) {
    throw new SetupError(`${error.message}; ${USAGE}`, { exitCode: 2 })
  }
}

/** @returns the exit code of vitest */
function fuzz(name, executions, seed) {
  const { file, targets } = DEVICES[name]
  const vitest = [`${ROOT}/node_modules/vitest/vitest.mjs`, "run", "--project", "fuzz"]
  const which = [`test/fuzz/${file}.test.ts`, "-t", `fuzz (${targets.join("|")}) `]
  return runAttached(process.execPath, [...vitest, ...which, "--maxWorkers=1", "--reporter=dot"], {
    cwd: ROOT,
    env: { FUZZ_EXECUTIONS: String(Math.ceil(executions / targets.length)), FUZZ_SEED: String(seed) },
  })
}

await main(async () => {
  const { devices, executions, seed } = readArguments()
  await setUp({ groups: ["build"] })
  let worst = 0
  for (const name of devices) worst = (await fuzz(name, executions, seed)) || worst
  return worst
})
