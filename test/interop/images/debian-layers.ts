import { execFileSync } from "node:child_process"
import { createReadStream, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { packImage } from "@ts-vmm/oci-image"
import { pythonImage } from "../../fixtures/images.js"

/** What Debian's minimal system lacks: kinds, names, owners, times, attributes and links that images may have. */
const SPECIALS = `
import os, sys
os.chdir(os.fsencode(sys.argv[1]))
os.mkdir(b"special")
os.chdir(b"special")
def put(name, content=b"x"):
    with open(name, "wb") as file: file.write(content)
    return name
os.mkfifo(b"fifo")
os.mknod(b"block", 0o060640, os.makedev(259, 300))
put(b"empty", b"")
put(b"\\xff\\xfe not UTF-8")
put(b"long-" + b"n" * 240)
os.symlink(b"t" * 3000, b"long-link")
os.symlink(b"nowhere", b"dangling")
os.chmod(put(b"setuid"), 0o6755)
os.chown(put(b"owned"), 3000000, 2999999)
os.utime(put(b"old"), ns=(0, -1500000000))
os.utime(put(b"exact"), ns=(0, 1234567890123456789))
for size in (4095, 4096, 4097, 1000000): put(b"size-%d" % size, b"s" * size)
for name in (b"hard-1", b"hard-2"): os.link(put(b"hard") if name == b"hard-1" else b"hard", name)
os.setxattr(put(b"attributes"), "user.small", b"1")
os.setxattr(b"attributes", "user.bytes", bytes(range(256)))
os.setxattr(b"attributes", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
os.setxattr(b"attributes", "trusted.x", b"t")
os.mkdir(b"directory"); os.chmod(b"directory", 0o1777); os.setxattr(b"directory", "user.d", b"d")
`

/** Debian's minimal system, which mmdebstrap made, as a folder, with more in it. Needs root, for devices and owners. */
export function makeDebianRoot(root: string): void {
  const image = pythonImage()
  const blob = (digest: string) => join(image, "blobs/sha256", digest.slice(7))
  const read = (path: string) => JSON.parse(readFileSync(path, "utf8"))
  const manifest = read(blob(read(join(image, "index.json")).manifests[0].digest))
  mkdirSync(root)
  execFileSync("tar", ["-xpf", blob(manifest.layers[0].digest), "--numeric-owner", "-C", root])
  execFileSync("python3", ["-c", SPECIALS, root])
}

/**
 * Splits a folder into the layers of an image, parents before children, as GNU tar writes them. Every layer has files
 * that the next one takes away or replaces.
 *
 * @returns the image layout
 */
export async function splitRoot(root: string, count: number, folder: string): Promise<string> {
  const paths = execFileSync("find", [".", "-print0"], { cwd: root, encoding: "latin1", maxBuffer: 1 << 28 })
    .split("\0")
    .filter(Boolean)
    .sort((a, b) => (a < b ? -1 : 1))
  const size = Math.ceil(paths.length / count)
  const layers = Array.from({ length: count }, (_, i) => {
    const [tar, stage] = [join(folder, `layer-${count}-${i}.tar`), join(folder, `stage-${count}-${i}`)]
    writeTar("-c", tar, root, paths.slice(i * size, (i + 1) * size))
    if (count > 1) writeTar("-r", tar, stage, makeStage(stage, i, count))
    return { tar: createReadStream(tar) }
  })
  const layout = join(folder, `split-${count}`)
  await packImage(layout, { layers, compression: count === 5 ? "gzip" : "none" })
  for (const { tar } of layers) rmSync(tar.path)
  return layout
}

/**
 * A folder as one layer, and once more as a second one that only changes modes and owners: what `chmod -R` makes in a
 * build.
 *
 * @returns the image layout
 */
export async function changedRoot(root: string, folder: string): Promise<string> {
  const paths = execFileSync("find", [".", "-print0"], { cwd: root, encoding: "latin1", maxBuffer: 1 << 28 })
    .split("\0")
    .filter(Boolean)
    .sort()
  const tars = ["base", "changed"].map(name => join(folder, `${name}.tar`)) as [string, string]
  writeTar("-c", tars[0], root, paths)
  writeTar("-c", tars[1], root, paths, ["--mode=g+w", "--owner=+1000"])
  const layout = join(folder, "changed")
  await packImage(layout, { layers: tars.map(tar => ({ tar: createReadStream(tar) })), compression: "gzip" })
  for (const tar of tars) rmSync(tar)
  return layout
}

function writeTar(
  mode: "-c" | "-r",
  tar: string,
  root: string,
  paths: readonly string[],
  more: readonly string[] = [],
): void {
  const how = [
    ...more,
    "--format=pax",
    "--xattrs",
    "--xattrs-include=*",
    "--numeric-owner",
    "--no-recursion",
    "--null",
  ]
  const input = Buffer.from(paths.map(path => `${path}\0`).join(""), "latin1")
  execFileSync("tar", [...how, mode, "-f", tar, "-C", root, "-T", "-"], { input })
}

/** What layer `i` adds: something to be removed or replaced, and the removal of what the layer below added. */
function makeStage(stage: string, i: number, count: number): string[] {
  const paths: string[] = []
  const put = (
    path: string,
    make: (at: string) => void = at => writeFileSync(at, path.includes(".wh.") ? "" : path),
  ) => {
    mkdirSync(dirname(join(stage, path)), { recursive: true })
    make(join(stage, path))
    paths.push(path)
  }
  if (i === 0) put("zz", mkdirSync)
  for (const name of [`junk-${i}`, `zz/dir-${i}`, `kind-${i}`])
    put(name, name.includes("dir") ? mkdirSync : undefined)
  for (const name of ["a", "b"]) put(`zz/dir-${i}/${name}`)
  if (i > 0) removeLower(put, i - 1)
  if (i === count - 1) {
    put("etc/.wh.debian_version")
    put("etc/apt/.wh..wh..opq")
    put("etc/apt/new")
  }
  return paths
}

function removeLower(put: (path: string, make?: (at: string) => void) => void, below: number): void {
  put(`.wh.junk-${below}`)
  if (below % 2 === 0) put(`zz/.wh.dir-${below}`)
  else for (const name of [".wh..wh..opq", "c"]) put(`zz/dir-${below}/${name}`)
  if (below % 3 === 0) put(`kind-${below}`, at => symlinkSync("zz", at))
  else if (below % 3 === 1)
    for (const name of ["", "/x"]) put(`kind-${below}${name}`, name ? undefined : mkdirSync)
  else put(`.wh.kind-${below}`)
}
