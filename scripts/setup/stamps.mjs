import { createHash } from "node:crypto"
import {
  accessSync,
  constants,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs"
import { CACHE, ROOT } from "./paths.mjs"
import { SetupError } from "./report.mjs"

const FILE = `${CACHE}/stamps.json`
const SKIPPED = new Set(["node_modules", "dist", "build", ".cache", ".git"])

const isBuildInput = name => !SKIPPED.has(name) && !name.endsWith(".test.ts")

/** Says whether `name` (a path relative to the root, or absolute) exists. */
export function exists(name) {
  return statSync(name.startsWith("/") ? name : `${ROOT}/${name}`, { throwIfNoEntry: false }) !== undefined
}

function addEntry(hash, path) {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (!stat) hash.update(`${path} absent\n`)
  else if (!stat.isDirectory()) hash.update(`${path}\0${stat.size}\0${stat.mtimeMs}\n`)
  else for (const name of readdirSync(path).sort()) if (isBuildInput(name)) addEntry(hash, `${path}/${name}`)
}

/**
 * A key that changes when any of the inputs does: names, sizes and times of files, folders walked. Inputs that do
 * not exist count as absent; tests count as nothing.
 * @param {string[]} inputs paths relative to the root
 * @param {string[]} [facts] further text that the result depends on
 */
export function keyOf(inputs, facts = []) {
  const hash = createHash("sha1")
  for (const fact of facts) hash.update(`${fact}\n`)
  for (const input of inputs) addEntry(hash, `${ROOT}/${input}`)
  return hash.digest("hex")
}

function readStamps() {
  try {
    return JSON.parse(readFileSync(FILE, "utf8"))
  } catch {
    return {} // absent or torn: every step is simply done again
  }
}

/** Keys under which steps were last done. */
export class Stamps {
  #keys = readStamps()

  /** Says whether `step` was last done with exactly this key. */
  isCurrent(step, key) {
    return this.#keys[step] === key
  }

  /** Forgets what other processes may have changed meanwhile. */
  reload() {
    this.#keys = readStamps()
  }

  /** Records `step` as done with `key` (`undefined`: not done). The file is replaced in one go. */
  set(step, key) {
    this.#keys = { ...readStamps(), [step]: key }
    const fresh = `${FILE}.${process.pid}`
    makeCache()
    writeFileSync(fresh, JSON.stringify(this.#keys, null, 2))
    renameSync(fresh, FILE)
  }
}

/** Says whether this user may change the checkout. */
export function isWritable() {
  try {
    for (const folder of [ROOT, CACHE].filter(exists)) accessSync(folder, constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** @throws SetupError when something has to be made here and this user may not */
export function requireWritable() {
  if (isWritable()) return
  throw new SetupError(
    `this checkout is not built, or changed since, and you may not write to it: run once as its owner: npm run build`,
  )
}

/** Makes a folder in the cache. */
export function makeCache(folder = CACHE) {
  requireWritable()
  mkdirSync(folder, { recursive: true })
}
