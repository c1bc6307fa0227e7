import { readdirSync, readFileSync } from "node:fs"
import { CACHE, ROOT } from "./paths.mjs"
import { step } from "./report.mjs"
import { run } from "./run.mjs"
import { exists, keyOf, makeCache, requireWritable } from "./stamps.mjs"

const TOOLS = `${CACHE}/tools`
const WORKSPACE_FOLDERS = ["packages", "examples"]

/** Folders of all workspace packages, relative to the root. */
export function workspaceFolders() {
  const nested = WORKSPACE_FOLDERS.flatMap(parent =>
    readdirSync(`${ROOT}/${parent}`).map(name => `${parent}/${name}`),
  )
  return [...nested, "test"].filter(folder => exists(`${folder}/package.json`))
}

/** The parsed package.json of a folder relative to the root ("." is the root's own). */
export const manifestOf = folder => JSON.parse(readFileSync(`${ROOT}/${folder}/package.json`, "utf8"))

/** Installs the pnpm that package.json pins into the cache, beside whatever the system has; returns its script. */
async function ensurePnpm() {
  const wanted = manifestOf(".").packageManager // "pnpm@10.34.9"
  const script = `${TOOLS}/node_modules/pnpm/bin/pnpm.cjs`
  const installed =
    exists(script) && JSON.parse(readFileSync(`${TOOLS}/node_modules/pnpm/package.json`, "utf8")).version
  if (`pnpm@${installed}` !== wanted) {
    makeCache(TOOLS)
    const quiet = ["--no-audit", "--no-fund", "--no-save", "--no-package-lock", "--loglevel=error"]
    await step(wanted, () => run("npm", ["install", "--prefix", TOOLS, ...quiet, wanted], { cwd: TOOLS }))
  }
  return script
}

/**
 * Installs the workspace's dependencies as the lock file says, when it or a package.json changed.
 * @param {import("./stamps.mjs").Stamps} stamps
 */
export async function ensureDependencies(stamps) {
  const manifests = workspaceFolders().map(folder => `${folder}/package.json`)
  const inputs = ["package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml", ".npmrc", ...manifests]
  const current = () => stamps.isCurrent("dependencies", keyOf(inputs))
  if (current() && exists("node_modules/.modules.yaml")) return
  requireWritable()
  const pnpm = await ensurePnpm()
  // CI: never ask a question, also not whether node_modules may be laid anew. Scripts: nothing that comes from a
  // registry runs at its installation, and our own addon is a step of the build.
  const args = ["install", "--frozen-lockfile", "--ignore-scripts"]
  const install = () => run(process.execPath, [pnpm, ...args], { cwd: ROOT, env: { CI: "true" } })
  await step("npm dependencies", install)
  stamps.set("dependencies", keyOf(inputs))
}
