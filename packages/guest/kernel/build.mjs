// Builds a guest kernel from Debian's linux-source package, or from any kernel tree, and packs the result.
//
//   node kernel/build.mjs uml-x86_64                      takes the newest linux-source-* package apt can reach
//   node kernel/build.mjs uml-x86_64 --package linux-source-7.2
//   node kernel/build.mjs uml-x86_64 --tree DIR           takes an unpacked kernel tree
//
// Needs: gcc, make, flex, bison, bc, xz-utils, and 2 GiB of disk. About 5 minutes on 2 cores.
// A package of a newer suite is reached by pointing apt at it (apt's own sources; see README.md).

import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { cpus, tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { brotliCompressSync, constants } from "node:zlib"

const here = dirname(fileURLToPath(import.meta.url))
const prebuilt = join(here, "..", "prebuilt")

/** What each kernel is made of: the make ARCH, and the file that is packed. */
const KERNELS = {
  "uml-x86_64": { arch: "um", target: "linux", config: "uml-x86_64.config" },
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { tree: { type: "string" }, package: { type: "string" } },
})
const name = positionals[0] ?? ""
const kernel = KERNELS[name]
if (!kernel) {
  console.error(
    `usage: node kernel/build.mjs ${Object.keys(KERNELS).join("|")} [--tree DIR | --package NAME]`,
  )
  process.exit(2)
}

const work = mkdtempSync(join(tmpdir(), "guest-kernel-"))
try {
  const source = values.tree
    ? { tree: values.tree, origin: "a kernel tree" }
    : fetchDebianSource(values.package)
  buildKernel(source.tree)
  packKernel(source)
} finally {
  rmSync(work, { recursive: true, force: true })
}

function run(command, args, options = {}) {
  return execFileSync(command, args, {
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 1 << 28,
    ...options,
  }).toString()
}

function fetchDebianSource(wanted) {
  const candidates = run("apt-cache", ["search", "--names-only", "^linux-source-[0-9]"])
    .split("\n")
    .map(line => line.split(" ")[0])
    .filter(Boolean)
    .sort((a, b) => a.localeCompare(b, undefined, { numeric: true }))
  const pkg = wanted ?? candidates.at(-1)
  if (!pkg) throw new Error("apt knows no linux-source package: run apt-get update, or give --tree DIR")
  const version = /Candidate: (\S+)/.exec(run("apt-cache", ["policy", pkg]))?.[1] ?? "unknown"
  run("apt-get", ["download", pkg], { cwd: work })
  const deb = readdirSync(work).find(file => file.endsWith(".deb"))
  run("dpkg", ["-x", deb, "deb"], { cwd: work })
  run("tar", ["-xf", join("deb", "usr", "src", `${pkg}.tar.xz`)], { cwd: work })
  return { tree: join(work, pkg), origin: `Debian package ${pkg} ${version}` }
}

function buildKernel(tree) {
  const fragment = join(here, kernel.config)
  const make = (...args) => run("make", ["-C", tree, `ARCH=${kernel.arch}`, ...args])
  make(`KCONFIG_ALLCONFIG=${fragment}`, "allnoconfig")
  const result = new Set(readFileSync(join(tree, ".config"), "utf8").split("\n"))
  const lost = readFileSync(fragment, "utf8")
    .split("\n")
    .filter(line => line.startsWith("CONFIG_") && !result.has(line))
  // allnoconfig drops what does not take without a word: a kernel that lacks a feature must not be packed.
  if (lost.length > 0)
    throw new Error(`the kernel does not take these lines of ${kernel.config}: ${lost.join(", ")}`)
  make(`-j${cpus().length}`, kernel.target)
}

function packKernel({ tree, origin }) {
  const stripped = join(work, "stripped")
  run("strip", ["-o", stripped, join(tree, kernel.target)])
  const image = readFileSync(stripped)
  const packed = brotliCompressSync(image, {
    params: {
      [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY,
      [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS,
      [constants.BROTLI_PARAM_SIZE_HINT]: image.length,
    },
  })
  mkdirSync(prebuilt, { recursive: true })
  const file = `linux-${name}.br`
  writeFileSync(join(prebuilt, file), packed)
  const manifestPath = join(prebuilt, "manifest.json")
  const manifest = readManifest(manifestPath)
  manifest.kernels[`linux-${name}`] = {
    file,
    version: run("make", ["-s", "-C", tree, `ARCH=${kernel.arch}`, "kernelrelease"]).trim(),
    source: origin,
    config: `kernel/${kernel.config}`,
    configSha256: sha256(readFileSync(join(here, kernel.config))),
    size: image.length,
    sha256: sha256(image),
    packedSize: packed.length,
    packedSha256: sha256(packed),
    licence: "GPL-2.0-only WITH Linux-syscall-note",
  }
  writeFileSync(manifestPath, `${JSON.stringify(manifest, null, 2)}\n`)
  console.log(`${file}: ${packed.length} bytes packed, ${image.length} unpacked`)
}

function readManifest(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8"))
  } catch (error) {
    if (error.code !== "ENOENT") throw error
    return {
      notice:
        "These are Linux kernels, licensed GPL-2.0. The complete source is the Debian source package named by `source`, as " +
        "Debian publishes it; the configuration is the file named by `config`; kernel/build.mjs is the script that built them.",
      kernels: {},
    }
  }
}

function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex")
}
