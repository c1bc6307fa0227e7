// Builds build/Release/tsvmm_native.node and build/Release/tsvmm-launch, offline, when sources are newer.
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readdirSync, statSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const require = createRequire(join(root, "package.json"))
const out = join(root, "build/Release")

/** The prefix of this node, whose headers the addon is compiled against: nothing is downloaded. */
export function nodePrefix() {
  const prefix = dirname(dirname(process.execPath))
  if (!existsSync(join(prefix, "include/node/node_api.h"))) {
    fail(
      `the headers of node are missing in ${prefix}/include/node: node from nodejs.org or NodeSource has them; for Debian's own, apt-get install libnode-dev`,
    )
  }
  return prefix
}

/** Runs a program with its output shown only when it fails. */
export function run(program, args, options = {}) {
  const result = spawnSync(program, args, { cwd: root, encoding: "utf8", ...options })
  if (result.error?.code === "ENOENT")
    fail(`${program} is missing: on Debian, apt-get install g++ make python3`)
  if (result.status !== 0) fail(`${program} failed:\n${result.stdout ?? ""}${result.stderr ?? ""}`)
  return result
}

function fail(message) {
  process.stderr.write(`build of @ts-vmm/native: ${message}\n`)
  process.exit(1)
}

/** All files of a folder of this package, as paths. */
export function filesIn(folder) {
  return readdirSync(join(root, folder)).map(name => join(root, folder, name))
}

/** True if `output` is missing or older than one of `sources`. */
export function isStale(output, sources) {
  if (!existsSync(output)) return true
  const built = statSync(output).mtimeMs
  return sources.some(source => statSync(source).mtimeMs > built)
}

function buildAddon() {
  const own = [join(root, "binding.gyp"), fileURLToPath(import.meta.url), ...filesIn("src/cc")]
  if (!isStale(join(out, "tsvmm_native.node"), own)) return
  const gyp = require.resolve("node-gyp/bin/node-gyp.js")
  run(process.execPath, [gyp, "configure", "build", "--silent", `--nodedir=${nodePrefix()}`])
}

function buildLauncher() {
  const source = join(root, "launcher/launcher.cc")
  const output = join(out, "tsvmm-launch")
  if (!isStale(output, [source, fileURLToPath(import.meta.url)])) return
  mkdirSync(out, { recursive: true })
  const flags = [
    "-std=c++17",
    "-Os",
    "-static",
    "-fno-exceptions",
    "-fno-rtti",
    "-fstack-protector-strong",
    "-s",
  ]
  run("g++", [...flags, "-Wall", "-Wextra", "-Werror", "-o", output, source])
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  buildAddon()
  buildLauncher()
}
