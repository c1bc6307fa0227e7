import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { sourceLines } from "./apt-sources.mjs"
import { haveLists } from "./debian.mjs"
import { withLock } from "./lock.mjs"
import { CACHE } from "./paths.mjs"
import { SetupError, step } from "./report.mjs"
import { run } from "./run.mjs"
import { exists, makeCache } from "./stamps.mjs"

/** Options that make apt use a private state below the cache with only the given sources. */
async function privateApt(suite) {
  const home = `${CACHE}/apt/${suite}`
  for (const folder of ["lists/partial", "cache/archives/partial"])
    mkdirSync(`${home}/${folder}`, { recursive: true })
  writeFileSync(`${home}/sources.list`, `${sourceLines([suite]).join("\n")}\n`)
  const settings = {
    "Dir::Etc::sourcelist": `${home}/sources.list`,
    "Dir::Etc::sourceparts": "/dev/null",
    "Dir::State::lists": `${home}/lists`,
    "Dir::Cache": `${home}/cache`,
    "Dir::Etc::preferencesparts": "/dev/null",
    "APT::Sandbox::User": "",
    "Acquire::Languages": "none",
  }
  const options = Object.entries(settings).flatMap(([name, value]) => ["-o", `${name}=${value}`])
  await run("apt-get", ["-q", ...options, "update"])
  return options
}

/** apt's own lists; a root user on a machine that never fetched any fetches them. */
async function systemApt() {
  if (!haveLists()) {
    if (process.getuid() !== 0) throw new SetupError("apt has no package lists, run: sudo apt-get update")
    await run("apt-get", ["-q", "update"])
  }
  return ["-o", "APT::Sandbox::User="]
}

/** The first dependency of a package: what a meta package stands for. */
async function resolveMeta(options, name) {
  const table = await run("apt-cache", [...options, "depends", "--important", name])
  const target = /^\s*Depends: (\S+)/m.exec(table)?.[1]
  if (!target) throw new SetupError(`the Debian package ${name} names no dependency`)
  return target
}

async function fetchAndUnpack(folder, { name, suite, meta }) {
  const options = suite ? await privateApt(suite) : await systemApt()
  const target = meta ? await resolveMeta(options, name) : name
  makeCache(`${CACHE}/debian`)
  const scratch = mkdtempSync(`${folder}.`)
  try {
    await run("apt-get", ["-q", ...options, "download", target], { cwd: scratch })
    const [file] = readdirSync(scratch)
    await run("dpkg-deb", ["-x", `${scratch}/${file}`, `${scratch}/root`])
    renameSync(`${scratch}/root`, folder)
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

/**
 * A Debian package's files in a folder of the cache; nothing is installed.
 * @param {{ name: string, suite?: string, meta?: boolean }} what name of the package; suite: take it from this suite
 *   of the machine's own mirror and not from the configured ones; meta: the package that this one depends on
 * @returns {Promise<string>} path of the folder
 * @throws SetupError when it cannot be fetched
 */
export async function unpackedPackage(what) {
  const folder = `${CACHE}/debian/${what.name}`
  if (exists(folder)) return folder
  await withLock(`debian-${what.name}`, async () => {
    if (!exists(folder))
      await step(`unpacked Debian package ${what.name}`, () => fetchAndUnpack(folder, what))
  })
  return folder
}
