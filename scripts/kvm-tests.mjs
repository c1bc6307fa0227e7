import { mkdirSync, writeFileSync } from "node:fs"
import { dirname } from "node:path"
import { startKvmHost } from "../test/kvm-host/host.mjs"
import { ROOT } from "./setup/paths.mjs"
import { note, step } from "./setup/report.mjs"
import { runAttached } from "./setup/run.mjs"
import { stockKernel } from "./setup/stock-kernel.mjs"
import { HOST_PROJECTS } from "./test-results.mjs"

const HOST_RESULTS = "/tmp/kvm-results.json"

function vitest(results) {
  const projects = Object.keys(HOST_PROJECTS).flatMap(name => ["--project", name])
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${results}`]
  return [process.execPath, `${ROOT}/node_modules/vitest/vitest.mjs`, "run", ...projects, ...reporters]
}

/** Whether this machine's own KVM runs stock kernels, found out by running guest code. */
async function haveKvm() {
  const { probeKvm } = await import("../packages/runtime/dist/index.js")
  return (await probeKvm()).usable
}

async function runInHost(results) {
  const kernel = await stockKernel()
  const host = await step("KVM test host", () => startKvmHost(kernel))
  try {
    const onOutput = (name, bytes) => process[name].write(bytes)
    const { code } = await host.run(vitest(HOST_RESULTS), { cwd: ROOT, env: { CI: "true" }, onOutput }).exited
    const report = []
    await host.run(["cat", HOST_RESULTS], { onOutput: (_, bytes) => report.push(bytes) }).exited
    mkdirSync(dirname(results), { recursive: true })
    writeFileSync(results, Buffer.concat(report))
    return code ?? 1
  } finally {
    await host.stop()
  }
}

/**
 * Runs the tests that need KVM: on this machine's, or in the test host.
 * @param {string} results where vitest's JSON report goes
 * @returns {Promise<number>} exit code
 */
export async function runKvmTests(results) {
  if (await haveKvm()) {
    const [command, ...args] = vitest(results)
    return runAttached(command, args, { cwd: ROOT })
  }
  note(
    "  this machine's KVM does not run stock kernels, or it has none: these tests run in the KVM test host",
  )
  return runInHost(results)
}
