// Runs the tests of this package against an addon and a launcher built with AddressSanitizer and
// UndefinedBehaviorSanitizer.
// Exit code 77: the sanitizer's library is not installed.
import { spawnSync } from "node:child_process"
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, isAbsolute, join } from "node:path"
import { fileURLToPath } from "node:url"
import { filesIn, isStale, nodePrefix, run } from "./build-addon.mjs"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const require = createRequire(join(root, "package.json"))
// A copy of the package, since the loader looks for the addon in one place only.
const copy = join(root, "build/Sanitize/package")
const addon = join(copy, "build/Release/tsvmm_native.node")
const gyp = join(root, "binding.gyp")
const launcher = join(copy, "build/Release/tsvmm-launch")

const FLAGS = [
  ...["-std=c++17", "-O1", "-g1", "-fno-omit-frame-pointer"],
  ...["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
]

const CONFIG =
  'export default { test: { testTimeout: 120000, hookTimeout: 60000, setupFiles: ["setup.mjs"] } }'

/** Fails every test file in which another addon than the sanitized one got loaded. */
const SETUP = `
  import { readFileSync } from "node:fs"
  import "./src/addon.js"
  const loaded = readFileSync("/proc/self/maps", "utf8").match(/[^ ]*tsvmm_native[.]node/g)
  if (!loaded?.every(path => path === ${JSON.stringify(addon)})) throw new Error("loaded " + loaded)
`

/** The path of a library of g++, or undefined. */
function libraryPath(name) {
  const path = run("g++", [`-print-file-name=${name}`]).stdout.trim()
  return isAbsolute(path) && existsSync(path) ? path : undefined
}

/** What the addon is built with: binding.gyp is JSON but for its comments. */
function addonDefines() {
  const text = readFileSync(gyp, "utf8").replaceAll(/^\s*#.*$/gm, "")
  return JSON.parse(text).targets[0].defines
}

function buildAddon() {
  const sources = filesIn("src/cc")
  if (!isStale(addon, [...sources, gyp, fileURLToPath(import.meta.url)])) return
  mkdirSync(dirname(addon), { recursive: true })
  const defines = [...addonDefines(), "NODE_GYP_MODULE_NAME=tsvmm_native"].map(define => `-D${define}`)
  const includes = [join(nodePrefix(), "include/node"), dirname(require.resolve("node-addon-api"))]
  run("g++", [
    ...[...FLAGS, "-fPIC", "-shared", "-Wl,-z,nodelete"],
    ...[...defines, ...includes.flatMap(path => ["-isystem", path])],
    ...["-o", addon, ...sources.filter(path => path.endsWith(".cc"))],
  ])
}

/** Not static, as the sanitizers need the C library's own loader. */
function buildLauncher() {
  const source = join(root, "launcher/launcher.cc")
  if (isStale(launcher, [source]))
    run("g++", [...FLAGS, "-fno-exceptions", "-fno-rtti", "-o", launcher, source])
}

function copyTests() {
  for (const folder of ["src", "test"]) {
    rmSync(join(copy, folder), { recursive: true, force: true })
    cpSync(join(root, folder), join(copy, folder), { recursive: true, filter: path => !isLeftOut(path) })
  }
  // With its name, as the loader asks for the package by name.
  cpSync(join(root, "package.json"), join(copy, "package.json"))
  writeFileSync(join(copy, "setup.mjs"), SETUP)
  writeFileSync(join(copy, "vitest.config.mjs"), CONFIG)
}

/** This very test must not run itself. */
function isLeftOut(path) {
  return path.endsWith("sanitize.test.ts") || path.endsWith("/src/cc")
}

const asan = libraryPath("libasan.so")
if (asan === undefined) {
  process.stderr.write("libasan is not installed: on Debian, apt-get install libasan8\n")
  process.exit(77)
}
buildAddon()
buildLauncher()
copyTests()
const vitest = join(dirname(require.resolve("vitest/package.json")), "vitest.mjs")
const result = spawnSync(process.execPath, [vitest, "run", "--root", copy, "--no-file-parallelism"], {
  stdio: "inherit",
  env: {
    ...process.env,
    LD_PRELOAD: asan,
    // V8 keeps what it allocates until the process ends.
    ASAN_OPTIONS: "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
    UBSAN_OPTIONS: "print_stacktrace=1:halt_on_error=1",
  },
})
process.exit(result.status ?? 1)
