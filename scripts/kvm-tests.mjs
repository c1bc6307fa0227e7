import { mkdirSync, writeFileSync } from "node:fs"
import { dirname } from "node:path"
import { startKvmHost } from "../test/kvm-host/host.mjs"
import { HostStandsStill, runWatched } from "../test/kvm-host/watch.mjs"
import { ROOT } from "./setup/paths.mjs"
import { note } from "./setup/report.mjs"
import { runAttached } from "./setup/run.mjs"
import { stockKernel } from "./setup/stock-kernel.mjs"
import { HOST_PROJECTS } from "./test-results.mjs"

const HOST_RESULTS = "/tmp/kvm-results.json"
/** A host has one processor, and the machines that this is for have two. */
const HOSTS = 2
/** Of tests that hang, each takes ten minutes: after so many it is known that something is wrong. */
const BAIL = 3

function vitest(results, ...more) {
  const projects = Object.keys(HOST_PROJECTS).flatMap(name => ["--project", name])
  // Each test is told as it ends: a test that hangs is the one after the last that was told.
  const reporters = ["--reporter=verbose", "--reporter=json", `--outputFile.json=${results}`]
  return [
    process.execPath,
    `${ROOT}/node_modules/vitest/vitest.mjs`,
    "run",
    ...projects,
    ...reporters,
    ...more,
  ]
}

/** Whether this machine's own KVM runs stock kernels, found out by running guest code. */
async function haveKvm() {
  const { probeKvm } = await import("../packages/runtime/dist/index.js")
  return (await probeKvm()).usable
}

/** A host's output, a line at a time: that of several hosts is mixed. */
function lineWriter() {
  let rest = ""
  return (_, bytes) => {
    const lines = (rest + bytes.toString("latin1")).split("\n")
    rest = lines.pop()
    for (const line of lines) process.stdout.write(`${line}\n`, "latin1")
  }
}

/** Runs one share of the tests in a host of its own; in another when the first one stands still, which no test can do. */
async function runShare(kernel, share) {
  try {
    return await runShareOnce(kernel, share)
  } catch (error) {
    if (!(error instanceof HostStandsStill)) throw error
    note(`  ${error.message}\n  its tests begin again in another`)
    return await runShareOnce(kernel, share)
  }
}

async function runShareOnce(kernel, share) {
  const host = await startKvmHost(kernel)
  try {
    const argv = vitest(HOST_RESULTS, "--maxWorkers=1", `--bail=${BAIL}`, `--shard=${share}/${HOSTS}`)
    const { code } = await runWatched(host, argv, { cwd: ROOT, env: { CI: "true" }, onOutput: lineWriter() })
    const report = []
    await host.run(["cat", HOST_RESULTS], { onOutput: (_, bytes) => report.push(bytes) }).exited
    return { code: code ?? 1, report: JSON.parse(Buffer.concat(report).toString()) }
  } finally {
    await host.stop()
  }
}

async function runInHosts(results) {
  const kernel = await stockKernel()
  const shares = Array.from({ length: HOSTS }, (_, index) => runShare(kernel, index + 1))
  const ends = await Promise.allSettled(shares) // no host is left behind when another fails
  const failure = ends.find(({ reason }) => reason)
  if (failure) throw failure.reason
  const testResults = ends.flatMap(({ value }) => value.report.testResults)
  mkdirSync(dirname(results), { recursive: true })
  writeFileSync(results, JSON.stringify({ testResults }))
  return ends.find(({ value }) => value.code !== 0)?.value.code ?? 0
}

/**
 * Runs the tests that need KVM: on this machine's, or in test hosts.
 * @param {string} results where vitest's JSON report goes
 * @returns {Promise<number>} exit code
 */
export async function runKvmTests(results) {
  if (await haveKvm()) {
    const [command, ...args] = vitest(results)
    return runAttached(command, args, { cwd: ROOT })
  }
  note("  this machine's KVM does not run stock kernels, or it has none: these tests run in KVM test hosts")
  return runInHosts(results)
}
