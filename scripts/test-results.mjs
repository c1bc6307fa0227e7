import { readFileSync, statSync } from "node:fs"
import { ROOT } from "./setup/paths.mjs"

/** The vitest projects that must have run on this machine, by where their files lie. */
export const MACHINE_PROJECTS = {
  unit: /^(packages|examples)\//,
  fuzz: /^test\/fuzz\//,
  uml: /^test\/e2e\//,
  interop: /^test\/interop\//,
}
/** Those that must have run on a KVM. */
export const HOST_PROJECTS = {
  kvm: /^(packages\/[^/]+\/test|test)\/kvm\//,
  "kvm-e2e": /^test\/e2e\//,
}

/** As many of the tests that failed are named at the end; of more, something that all of them need is broken. */
const MOST_NAMED = 20
const SKIPPED = new Set(["pending", "skipped", "todo", "disabled"])

function readReport(path, notBefore) {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (!stat || stat.mtimeMs < performance.timeOrigin + notBefore) return undefined
  return JSON.parse(readFileSync(path, "utf8"))
}

/** A test that failed in one line: where it is, its name, and the first line of what it said. */
function named(file, { fullName, failureMessages }) {
  const said = failureMessages[0]?.split("\n")[0]
  return `${file.name}: ${fullName}: ${said || "failed"}`
}

/**
 * Counts what vitest's JSON report says.
 * @param {string} path the report
 * @param {number} notBefore on performance.now()'s clock: an older report is another run's
 * @param {Record<string, RegExp>} projects those that must have run
 * @returns {{ passed: number, failed: number, skipped: number, failures: string[], faults: string[] }} failures: a
 *   line for each test that failed; faults: test files that could not be loaded, and projects of which no test ran
 */
export function readResults(path, notBefore, projects) {
  const report = readReport(path, notBefore)
  if (!report) return { passed: 0, failed: 0, skipped: 0, failures: [], faults: ["vitest left no report"] }
  const files = report.testResults.map(file => ({ ...file, name: file.name.replace(`${ROOT}/`, "") }))
  const count = (file, wanted) => file.assertionResults.filter(({ status }) => wanted(status)).length
  const total = wanted => files.reduce((sum, file) => sum + count(file, wanted), 0)
  const failures = files.flatMap(file =>
    file.assertionResults.filter(({ status }) => status === "failed").map(test => named(file, test)),
  )
  const broken = files.filter(
    file => file.status === "failed" && count(file, status => status === "failed") === 0,
  )
  const idle = Object.keys(projects).filter(project => {
    const own = files.filter(file => projects[project].test(file.name))
    return !own.some(file => count(file, status => status === "passed" || status === "failed") > 0)
  })
  return {
    passed: total(status => status === "passed"),
    failed: failures.length,
    skipped: total(status => SKIPPED.has(status)),
    failures: failures.slice(0, MOST_NAMED),
    faults: [
      ...broken.map(file => `${file.name}: ${file.message?.split("\n")[0] || "did not run"}`),
      ...idle.map(project => `no test of the required project ${project} ran`),
    ],
  }
}
