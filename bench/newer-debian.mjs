// Programs of a newer Debian than this one, as peers: unpacked beside the system, and run by their own loader.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { CACHE } from "../scripts/setup/paths.mjs"
import { output } from "./process.mjs"

const SUITE = "sid"
const FOLDER = `${CACHE}/bench/${SUITE}`
const SOURCES = "/etc/apt/sources.list.d"
/** What a Rust program stands on. */
const LIBRARIES = ["libc6", "libgcc-s1", "libcap-ng0", "libseccomp2"]

/** The mirror of this machine, with the packages of the other suite. */
function newerSources() {
  const files = existsSync(SOURCES) ? readdirSync(SOURCES).filter(name => name.endsWith(".sources")) : []
  for (const file of files) {
    const text = readFileSync(`${SOURCES}/${file}`, "utf8")
    const entry = text.split(/\n\s*\n/).find(part => /^Suites: *\w+/m.test(part) && !/-security/.test(part))
    if (entry) return entry.replace(/^Suites:.*$/m, `Suites: ${SUITE}`)
  }
  throw new Error(`no Debian mirror is named in ${SOURCES}`)
}

const aptOptions = () => [
  ...["-o", `Dir::Etc::sourcelist=${FOLDER}/apt/newer.sources`, "-o", "Dir::Etc::sourceparts=-"],
  ...["-o", `Dir::State::lists=${FOLDER}/apt/lists`, "-o", `Dir::Cache=${FOLDER}/apt/cache`],
  ...["-o", "APT::Get::List-Cleanup=0", "-o", "APT::Sandbox::User=root"],
]

async function fetch(name) {
  const [packages, root] = [`${FOLDER}/apt/packages`, `${FOLDER}/${name}`]
  for (const folder of ["lists/partial", "cache/archives/partial", "packages"])
    mkdirSync(`${FOLDER}/apt/${folder}`, { recursive: true })
  writeFileSync(`${FOLDER}/apt/newer.sources`, `${newerSources()}\n`)
  await output(["apt-get", "-q", ...aptOptions(), "update"])
  rmSync(`${root}.new`, { recursive: true, force: true })
  mkdirSync(`${root}.new`)
  for (const one of [name, ...LIBRARIES]) {
    await output(["apt-get", "-q", ...aptOptions(), "download", one], { cwd: packages })
    const file = readdirSync(packages).find(found => found.startsWith(`${one}_`))
    await output(["dpkg", "-x", `${packages}/${file}`, `${root}.new`])
  }
  renameSync(`${root}.new`, root)
  rmSync(`${FOLDER}/apt`, { recursive: true })
}

/** Libraries are named by links as well. */
function find(folder, name) {
  const all = readdirSync(folder, { recursive: true, withFileTypes: true })
  const entry = all.find(one => one.name === name && (one.isFile() || one.isSymbolicLink()))
  return entry && `${entry.parentPath ?? entry.path}/${name}`
}

/**
 * The command line that runs a program of the newer suite; fetched at first use.
 * @param {string} name of the package and of its program
 * @returns {Promise<{ command?: string[], missing?: string }>} `missing`: why it cannot be had, without a network say
 */
export async function newerProgram(name) {
  const root = `${FOLDER}/${name}`
  try {
    if (!existsSync(root)) await fetch(name)
  } catch (error) {
    return { missing: `${name} of Debian ${SUITE} cannot be fetched: ${error.message.split("\n")[0]}` }
  }
  const [loader, program] = [find(root, "ld-linux-x86-64.so.2"), find(root, name)]
  if (!loader || !program) return { missing: `${name} of Debian ${SUITE} is not where it was` }
  const libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(folder => `${root}/${folder}`)
  return { command: [loader, "--library-path", libraries.join(":"), program] }
}
