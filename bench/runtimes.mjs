import { existsSync } from "node:fs"
import { localImage } from "../scripts/images/index.mjs"
import { ROOT } from "../scripts/setup/paths.mjs"
import { unpackedPackage } from "../scripts/setup/unpacked-package.mjs"
import { unpackRootfs, writeBundle } from "./bundle.mjs"
import { which } from "./process.mjs"

const OURS = `${ROOT}/examples/example-runtime/dist/main.js`

/** gVisor's runsc: the system's, or the one of Debian's backports unpacked into the cache. */
async function findRunsc() {
  const installed = which("runsc")
  if (installed) return installed
  const folder = await unpackedPackage({ name: "runsc", suite: "bookworm-backports" })
  return `${folder}/usr/bin/runsc`
}

/**
 * Ours and the other runtimes, each as a maker of command lines that run one process in a fresh container of the same
 * busybox root file system.
 * @param {string} folder scratch
 * @returns {Promise<{ ours: (args: string[], options?: string[]) => string[], peers: { name: string, missing?: string,
 *   command?: (args: string[]) => Promise<string[]> }[] }>}
 */
export async function runtimes(folder) {
  if (!existsSync(OURS)) throw new Error(`${OURS} is not built`)
  const image = await localImage("busybox")
  const rootfs = `${folder}/rootfs`
  unpackRootfs(image, rootfs)
  const runc = which("runc")
  let count = 0
  const bundled = start => async args => {
    const bundle = `${folder}/bundle-${args.join("-").replaceAll("/", "_")}`
    if (!existsSync(bundle)) await writeBundle(bundle, rootfs, args, runc)
    return start(bundle, `bench-${process.pid}-${++count}`)
  }
  const peer = async (name, find, start) => {
    if (!runc) return { name, missing: "runc is not installed" }
    if (process.getuid() !== 0) return { name, missing: "needs root" }
    try {
      const program = await find()
      return { name, command: bundled((bundle, id) => start(program, bundle, id)) }
    } catch (error) {
      return { name, missing: error.message }
    }
  }
  return {
    ours: (args, options = []) => [
      process.execPath,
      OURS,
      "run",
      "--rm",
      ...options,
      `oci:${image}`,
      ...args,
    ],
    peers: [
      await peer("runsc", findRunsc, (program, bundle, id) => [
        ...[program, "--root", `${folder}/runsc`, "--network=none", "--ignore-cgroups", "--platform=systrap"],
        ...["run", "--bundle", bundle, id],
      ]),
      await peer(
        "runc",
        () => runc,
        (program, bundle, id) => [program, "--root", `${folder}/runc`, "run", "--bundle", bundle, id],
      ),
    ],
  }
}
