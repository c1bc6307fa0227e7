// Builds a guest kernel from Debian's linux-source package, or from any kernel tree, and packs the result.
//
//   node kernel/build.mjs kvm-x86_64                      takes the newest linux-source-* package apt can reach
//   node kernel/build.mjs kvm-x86_64 --package linux-source-7.2
//   node kernel/build.mjs kvm-x86_64 --tree DIR           takes an unpacked kernel tree; the manifest will say
//                         --origin "Debian package ..."   that it comes from there
//
// Needs: gcc, make, flex, bison, bc, libelf-dev, xz-utils, zstd, and 2 GiB of disk. 5 to 8 minutes on 2 cores.
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
/** What a repository's file may have: beyond it the configuration has to lose something. */
const PACKED_SIZE_MAX = 4 << 20

/**
 * What each kernel is made of: the make ARCH, the configuration, and the images that one build gives. An image is named
 * as guestArtifacts().kernel() asks for it.
 */
const KERNELS = {
  "uml-x86_64": {
    arch: "um",
    config: "uml-x86_64.config",
    images: [{ name: "linux-uml-x86_64", target: "linux", path: "linux", strip: true }],
  },
  "kvm-x86_64": {
    arch: "x86_64",
    config: "kvm-x86_64.config",
    images: [
      { name: "linux-kvm-x86_64", target: "vmlinux", path: "vmlinux", strip: true },
      { name: "linux-kvm-x86_64-bzimage", target: "bzImage", path: "arch/x86/boot/bzImage", strip: false },
    ],
  },
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { tree: { type: "string" }, origin: { type: "string" }, package: { type: "string" } },
})
const kernel = KERNELS[positionals[0] ?? ""]
if (!kernel) {
  console.error(
    `usage: node kernel/build.mjs ${Object.keys(KERNELS).join("|")} [--tree DIR [--origin TEXT] | --package NAME]`,
  )
  process.exit(2)
}

const work = mkdtempSync(join(tmpdir(), "guest-kernel-"))
try {
  const source = values.tree
    ? { tree: values.tree, origin: values.origin ?? "a kernel tree" }
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
  make(`-j${cpus().length}`, ...kernel.images.map(image => image.target))
}

function packKernel({ tree, origin }) {
  mkdirSync(prebuilt, { recursive: true })
  const manifestPath = join(prebuilt, "manifest.json")
  const manifest = readManifest(manifestPath)
  const build = {
    version: run("make", ["-s", "-C", tree, `ARCH=${kernel.arch}`, "kernelrelease"]).trim(),
    source: origin,
    config: `kernel/${kernel.config}`,
    configSha256: sha256(readFileSync(join(here, kernel.config))),
    licence: "GPL-2.0-only WITH Linux-syscall-note",
  }
  for (const image of kernel.images) manifest.kernels[image.name] = { ...packImage(tree, image), ...build }
  writeFileSync(manifestPath, `${JSON.stringify(manifest, null, 2)}\n`)
}

function packImage(tree, { name, path, strip }) {
  const bytes = strip ? stripped(join(tree, path)) : readFileSync(join(tree, path))
  const packed = brotliCompressSync(bytes, {
    params: {
      [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY,
      [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS,
      [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
    },
  })
  const file = `${name}.br`
  console.log(`${file}: ${packed.length} bytes packed, ${bytes.length} unpacked`)
  if (packed.length > PACKED_SIZE_MAX) throw new Error(`${file} has more than ${PACKED_SIZE_MAX} bytes`)
  writeFileSync(join(prebuilt, file), packed)
  return {
    file,
    size: bytes.length,
    sha256: sha256(bytes),
    packedSize: packed.length,
    packedSha256: sha256(packed),
  }
}

function stripped(path) {
  const output = join(work, "stripped")
  run("strip", ["-o", output, path])
  return readFileSync(output)
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
