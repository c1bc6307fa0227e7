import { mkdirSync, readdirSync, renameSync, statSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { CACHE } from "../../scripts/setup/paths.mjs"
import { output } from "../process.mjs"

const HERE = fileURLToPath(new URL(".", import.meta.url))
const SHARED = ["vhost_user.c", "vring.c", "pattern.c", "net_frames.c"]

/**
 * Compiles one of the C programs of this folder when it or a header is newer than the result.
 * @param {string} name such as "blk_bench"
 * @returns {Promise<string>} path of the program
 */
export async function compileFrontEnd(name) {
  const program = `${CACHE}/bench/${name}`
  const newest = Math.max(...readdirSync(HERE).map(file => statSync(`${HERE}/${file}`).mtimeMs))
  if ((statSync(program, { throwIfNoEntry: false })?.mtimeMs ?? 0) > newest) return program
  mkdirSync(`${CACHE}/bench`, { recursive: true })
  const sources = [`${name}.c`, ...SHARED].map(file => `${HERE}/${file}`)
  await output([
    "gcc",
    "-O2",
    "-Wall",
    "-Wextra",
    "-std=gnu17",
    "-pthread",
    "-o",
    `${program}.new`,
    ...sources,
  ])
  renameSync(`${program}.new`, program)
  return program
}
