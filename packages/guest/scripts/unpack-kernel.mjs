// Unpacks the committed guest kernels into build/kernels/, checking both digests. Does nothing for a kernel
// that is already there with the right size.

import { createHash } from "node:crypto"
import { chmodSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { brotliDecompressSync } from "node:zlib"

const root = join(dirname(fileURLToPath(import.meta.url)), "..")
const target = join(root, "build", "kernels")
const manifest = JSON.parse(readFileSync(join(root, "prebuilt", "manifest.json"), "utf8"))

mkdirSync(target, { recursive: true })
for (const [name, kernel] of Object.entries(manifest.kernels)) unpack(name, kernel)

function unpack(name, kernel) {
  const path = join(target, name)
  const stamp = `${path}.sha256`
  if (isCurrent(path, stamp, kernel)) return
  const packed = readFileSync(join(root, "prebuilt", kernel.file))
  check(packed, kernel.packedSha256, kernel.file)
  const image = brotliDecompressSync(packed, { maxOutputLength: kernel.size })
  check(image, kernel.sha256, name)
  const temporary = `${path}.${process.pid}.tmp`
  writeFileSync(temporary, image)
  chmodSync(temporary, 0o755)
  renameSync(temporary, path)
  writeFileSync(stamp, kernel.sha256)
}

function isCurrent(path, stamp, kernel) {
  try {
    return statSync(path).size === kernel.size && readFileSync(stamp, "utf8") === kernel.sha256
  } catch (error) {
    if (error.code === "ENOENT") return false
    throw error
  }
}

function check(bytes, expected, name) {
  const actual = createHash("sha256").update(bytes).digest("hex")
  if (actual !== expected) throw new Error(`${name}: sha256 is ${actual}, the manifest says ${expected}`)
}
