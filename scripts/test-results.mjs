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

const SKIPPED = new Set(["pending", "skipped", "todo", "disabled"])

function readReport(path, notBefore) {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (!stat || stat.mtimeMs < performance.timeOrigin + notBefore) return undefined
  return JSON.parse(readFileSync(path, "utf8"))
}

/**
 * Counts what vitest's JSON report says.
 * @param {string} path the report
 * @param {number} notBefore on performance.now()'s clock: an older report is another run's
 * @param {Record<string, RegExp>} projects those that must have run
 * @returns {{ passed: number, failed: number, skipped: number, faults: string[] }} faults: test files that could not
 *   be loaded, and projects of which no test ran
 */
export function readResults(path, notBefore, projects) {
  const report = readReport(path, notBefore)
  if (!report) return { passed: 0, failed: 0, skipped: 0, faults: ["vitest left no report"] }
  const files = report.testResults.map(file => ({ ...file, name: file.name.replace(`${ROOT}/`, "") }))
  const count = (file, wanted) => file.assertionResults.filter(({ status }) => wanted(status)).length
  const total = wanted => files.reduce((sum, file) => sum + count(file, wanted), 0)
  const broken = files.filter(
    file => file.status === "failed" && count(file, status => status === "failed") === 0,
  )
  const idle = Object.keys(projects).filter(project => {
    const own = files.filter(file => projects[project].test(file.name))
    return !own.some(file => count(file, status => status === "passed" || status === "failed") > 0)
  })
  return {
    passed: total(status => status === "passed"),
    failed: total(status => status === "failed"),
    skipped: total(status => SKIPPED.has(status)),
    faults: [
      ...broken.map(file => `${file.name}: ${file.message?.split("\n")[0] || "did not run"}`),
      ...idle.map(project => `no test of the required project ${project} ran`),
    ],
  }
}
