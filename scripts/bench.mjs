// npm run bench -- [SUITE…] [--json FILE] [--rounds N]: ours and the peers, measured in turns in the same run.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { parseArgs } from "node:util"
import { DEFAULT_ROUNDS, runSuite, Skip, skippedRow } from "../bench/harness.mjs"
import { table } from "../bench/table.mjs"
import { setUp } from "./setup/index.mjs"
import { main, note, SetupError } from "./setup/report.mjs"

const KVM_SUITES = ["kvm-load", "kvm-exits", "kvm-boot", "kvm-memory"]
const NET_SUITES = ["net-frames", "net-passt", "net-qemu", "net-uml"]
/** Every device. */
const DEVICE_SUITES = ["blk", "fs", "inodes", "vsock", ...NET_SUITES, "balloon"]
const SUITES = ["queue", ...DEVICE_SUITES, "guest", "start", "idle", "images", ...KVM_SUITES]
const GROUPS = { kvm: KVM_SUITES, devices: DEVICE_SUITES, net: NET_SUITES }
const USAGE = `usage: npm run bench -- [${[...Object.keys(GROUPS), ...SUITES].join("|")}]… [--json FILE] [--rounds N]`

function readArguments() {
  try {
    const options = { json: { type: "string" }, rounds: { type: "string", default: String(DEFAULT_ROUNDS) } }
    const { values, positionals } = parseArgs({ options, allowPositionals: true })
    const named = positionals.flatMap(name => GROUPS[name] ?? [name])
    const unknown = named.filter(name => !SUITES.includes(name))
    if (unknown.length > 0) throw new Error(`there is no suite ${unknown.join(", ")}`)
    const rounds = Number(values.rounds)
    if (!Number.isInteger(rounds) || rounds < 1) throw new Error(`--rounds ${values.rounds}`)
    return { json: values.json, rounds, suites: named.length > 0 ? named : SUITES }
  } catch (error) {
    throw new SetupError(`${error.message}; ${USAGE}`, { exitCode: 2 })
  }
}

const progress = text => process.stderr.isTTY && process.stderr.write(`\r\x1b[K  ${text}`)

async function measure(name, rounds) {
  const { default: suite } = await import(`../bench/suites/${name}.mjs`)
  const folder = mkdtempSync(`${tmpdir()}/ts-vmm-bench-`) // short: sockets go there
  try {
    return await runSuite(suite, rounds, folder, progress)
  } catch (error) {
    return [{ ...skippedRow(name, "all", error.message), failed: !(error instanceof Skip) }]
  } finally {
    rmSync(folder, { recursive: true, force: true })
    progress("")
  }
}

await main(async () => {
  const { json, rounds, suites } = readArguments()
  await setUp({ groups: ["build", "start", "test", "bench"] })
  const rows = []
  for (const name of suites) rows.push(...(await measure(name, rounds)))
  process.stdout.write(`${table(rows)}\n`)
  if (json) writeFileSync(json, `${JSON.stringify(rows, null, 2)}\n`)
  const failed = rows.filter(row => row.failed)
  for (const { suite, skipped } of failed) note(`error: suite ${suite} did not run: ${skipped}`)
  return failed.length > 0 ? 1 : 0
})
