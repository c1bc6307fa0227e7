import { accessSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { GuestError } from "./errors.js"

/** This entry loads no protocol code, for programs that first start a machine and then talk to it. */
export { GuestError } from "./errors.js"

/** Where the files that a guest boots from lie. */
export interface GuestArtifacts {
  /** The initramfs with the agent in it. */
  readonly initramfs: string
  /**
   * The agent itself, for an initramfs with a kernel's modules in it (`writeAgentInitramfs`).
   *
   * @throws GuestError "artifact-missing"
   */
  agent(): string
  /**
   * A guest kernel by name: `linux-uml-x86_64`, `linux-kvm-x86_64`, `linux-kvm-x86_64-bzimage`.
   *
   * @throws GuestError "artifact-missing" | "invalid-argument"
   */
  kernel(name: string): string
}

/**
 * Finds the built files of this package; works from its sources and from its build alike.
 *
 * @param root the package's directory, for tests
 * @throws GuestError "artifact-missing" when the initramfs was not built; the message says what to run
 * @example
 * ```ts
 * const { initramfs, kernel } = guestArtifacts()
 * spawn(kernel("linux-uml-x86_64"), [`initrd=${initramfs}`, "mem=128M"])
 * ```
 */
export function guestArtifacts(root = packageRoot()): GuestArtifacts {
  const build = join(root, "build")
  return {
    initramfs: existing(
      join(build, "initramfs.cpio"),
      "the initramfs",
      "node packages/guest/scripts/build-initramfs.mjs",
    ),
    agent: () => existing(join(build, "agent"), "the agent", "node packages/guest/scripts/build-agent.mjs"),
    kernel(name) {
      if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) {
        throw new GuestError("invalid-argument", `${JSON.stringify(name)} is not the name of a kernel`)
      }
      return existing(join(build, "kernels", name), `the guest kernel ${name}`, "npm start")
    },
  }
}

/** Asked for by name, so that a program that bundles this package still finds the files that come with it. */
function packageRoot(): string {
  return dirname(createRequire(import.meta.url).resolve("@ts-vmm/guest/package.json"))
}

function existing(path: string, what: string, remedy: string): string {
  try {
    accessSync(path)
    return path
  } catch (cause) {
    throw new GuestError("artifact-missing", `${what} is not there (${path}): run ${remedy}`, { cause })
  }
}
