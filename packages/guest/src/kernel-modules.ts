import { readFileSync } from "node:fs"
import { basename, join, normalize } from "node:path"
import { GuestError } from "./errors.js"

/** What a kernel module's file may be called: compressed ones are unpacked by the guest's kernel. */
const MODULE_FILE = /\.ko(\.(?:gz|xz|zst))?$/

/** "virtio_blk" and "virtio-blk" are one module to the kernel. */
const canonical = (name: string): string => name.replaceAll("-", "_")

const moduleName = (path: string): string => canonical(basename(path).replace(MODULE_FILE, ""))

/**
 * Finds kernel modules and all that they need, in an order in which they can be loaded one by one.
 *
 * @param directory a kernel's folder with `modules.dep`, such as `/lib/modules/6.1.0-50-cloud-amd64`
 * @param names of modules, without suffix, `-` and `_` alike; those that are built into the kernel (`modules.builtin`)
 *   are left out
 * @returns paths of the files
 * @throws GuestError "artifact-missing" when `directory` has no `modules.dep` (depmod makes it) |
 *   "invalid-argument" for a module that the kernel does not have, or a table that leads out of `directory`
 * @see modules.dep(5)
 * @example
 * ```ts
 * kernelModuleFiles("/lib/modules/6.1.0-50-cloud-amd64", ["virtio_blk"])
 * // [".../virtio.ko", ".../virtio_ring.ko", ".../virtio_blk.ko"]
 * ```
 */
export function kernelModuleFiles(directory: string, names: readonly string[]): string[] {
  const dependencies = readDependencies(directory)
  const builtin = new Set(readTable(directory, "modules.builtin").map(moduleName))
  const inOrder = new Set<string>()
  for (const name of names) {
    const chain = dependencies.get(canonical(name))
    if (chain) for (const path of chain) inOrder.add(insideOf(directory, path))
    else if (!builtin.has(canonical(name)))
      throw new GuestError("invalid-argument", `the kernel of ${directory} has no module ${name}`)
  }
  return [...inOrder]
}

/** modules.dep as module name to its file behind the files that it needs. */
function readDependencies(directory: string): Map<string, string[]> {
  return new Map(
    readTable(directory, "modules.dep").map(line => {
      const [path = "", needed = ""] = line.split(":")
      // The nearest dependency stands first, and it may itself need those after it.
      return [moduleName(path), [...needed.split(/\s+/).filter(Boolean).reverse(), path]]
    }),
  )
}

function readTable(directory: string, file: string): string[] {
  try {
    return readFileSync(join(directory, file), "utf8").split("\n").filter(Boolean)
  } catch (cause) {
    throw new GuestError("artifact-missing", `${directory} has no ${file}: run depmod for its kernel`, {
      cause,
    })
  }
}

function insideOf(directory: string, path: string): string {
  if (normalize(path) !== path || /^(\.\.)?\//.test(path) || !MODULE_FILE.test(path))
    throw new GuestError(
      "invalid-argument",
      `modules.dep of ${directory} names ${path}, which is no module in it`,
    )
  return join(directory, path)
}
