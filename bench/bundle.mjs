import { execFileSync } from "node:child_process"
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { output } from "./process.mjs"

const blobPath = (layout, digest) => `${layout}/blobs/${digest.replace(":", "/")}`
const readJson = path => JSON.parse(readFileSync(path, "utf8"))

/** Unpacks an image of one or more gzip layers without whiteouts, as another runtime's tools would have. */
export function unpackRootfs(layout, rootfs) {
  const [descriptor] = readJson(`${layout}/index.json`).manifests
  mkdirSync(rootfs, { recursive: true })
  for (const layer of readJson(blobPath(layout, descriptor.digest)).layers) {
    execFileSync("tar", ["-xzf", blobPath(layout, layer.digest), "-C", rootfs])
  }
}

/**
 * Writes an OCI runtime bundle around an unpacked rootfs, with the specification that runc itself proposes.
 * @param {string} folder
 * @param {string} rootfs
 * @param {string[]} args the process
 * @param {string} runc path of runc
 */
export async function writeBundle(folder, rootfs, args, runc) {
  mkdirSync(folder, { recursive: true })
  await output([runc, "spec"], { cwd: folder })
  const path = `${folder}/config.json`
  const spec = readJson(path)
  spec.process.terminal = false
  spec.process.args = args
  spec.root = { path: rootfs, readonly: true }
  writeFileSync(path, JSON.stringify(spec))
}
