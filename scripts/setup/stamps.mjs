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

/** Says whether `name` (a path relative to the root, or absolute) exists. */
export function exists(name) {
  return statSync(name.startsWith("/") ? name : `${ROOT}/${name}`, { throwIfNoEntry: false }) !== undefined
}

function addEntry(hash, path, stat) {
  if (stat.isDirectory()) {
    for (const name of readdirSync(path).sort()) {
      if (!SKIPPED.has(name))
        addEntry(hash, `${path}/${name}`, statSync(`${path}/${name}`, { throwIfNoEntry: false }) ?? stat)
    }
  } else {
    hash.update(`${path}\0${stat.size}\0${stat.mtimeMs}\n`)
  }
}

/**
 * A key that changes when any of the inputs does: names, sizes and times of files, folders walked. Inputs that do
 * not exist count as absent.
 * @param {string[]} inputs paths relative to the root
 * @param {string[]} [facts] further text that the result depends on
 */
export function keyOf(inputs, facts = []) {
  const hash = createHash("sha1")
  for (const fact of facts) hash.update(`${fact}\n`)
  for (const input of inputs) {
    const path = `${ROOT}/${input}`
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat) addEntry(hash, path, stat)
    else hash.update(`${path} absent\n`)
  }
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

  /** Says whether this user may record anything here. */
  isWritable() {
    try {
      accessSync(exists(CACHE) ? CACHE : ROOT, constants.W_OK)
      return true
    } catch {
      return false
    }
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

/** Makes the cache folder, or says who must do it. */
export function makeCache(folder = CACHE) {
  try {
    mkdirSync(folder, { recursive: true })
  } catch (error) {
    if (error.code !== "EACCES" && error.code !== "EROFS" && error.code !== "EPERM") throw error
    throw new SetupError(
      `cannot write to ${folder}: run the set-up once as the owner of this checkout (npm run build)`,
    )
  }
}
