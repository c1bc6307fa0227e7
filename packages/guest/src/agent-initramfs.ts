import { readFileSync } from "node:fs"
import { basename } from "node:path"
import { GuestError } from "./errors.js"
import { type InitramfsEntry, writeInitramfs } from "./initramfs.js"
import { kernelModuleFiles } from "./kernel-modules.js"

/**
 * Modules that a sandbox's guest needs of a kernel that has them as modules: its devices on virtio-mmio, and the file
 * systems of its containers. What these need comes with them.
 */
export const SANDBOX_MODULES: readonly string[] = [
  "virtio_mmio",
  "virtio_console",
  "virtio_rng",
  "virtio_balloon",
  "virtio_blk",
  "vmw_vsock_virtio_transport",
  "erofs",
  "overlay",
  "virtiofs",
]

/** What goes into a guest's initramfs. */
export interface AgentInitramfsOptions {
  /** The agent: one static executable, the guest's first process. */
  readonly agent: Uint8Array
  /** A kernel's folder with `modules.dep`; without it no module goes in. */
  readonly modulesDirectory?: string
  /** Names of the modules that the agent loads, in this order; {@link SANDBOX_MODULES} if absent. */
  readonly modules?: readonly string[]
}

/**
 * Writes the initramfs that a sandbox's guest boots from: the agent as `/init` and, for a kernel that has its drivers
 * as modules, those modules with the list by which the agent loads them before anything else.
 *
 * @returns the archive, as {@link writeInitramfs} makes it
 * @throws GuestError "artifact-missing" | "invalid-argument" as {@link kernelModuleFiles} does; "artifact-missing" for a
 *   module whose file cannot be read
 * @example
 * ```ts
 * import { guestArtifacts, writeAgentInitramfs } from "@ts-vmm/guest"
 *
 * const image = writeAgentInitramfs({
 *   agent: await readFile(guestArtifacts().agent()),
 *   modulesDirectory: "/lib/modules/6.1.0-50-cloud-amd64",
 * })
 * ```
 */
export function writeAgentInitramfs(options: AgentInitramfsOptions): Uint8Array {
  const { agent, modulesDirectory, modules = SANDBOX_MODULES } = options
  const files = modulesDirectory === undefined ? [] : kernelModuleFiles(modulesDirectory, modules)
  return writeInitramfs([
    { type: "directory", path: "dev", mode: 0o755 },
    // The kernel opens the console for the first process, before that can mount anything.
    { type: "character-device", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
    { type: "character-device", path: "dev/null", mode: 0o666, major: 1, minor: 3 },
    { type: "file", path: "init", mode: 0o755, data: agent },
    ...(files.length > 0 ? moduleEntries(files) : []),
  ])
}

function moduleEntries(files: readonly string[]): InitramfsEntry[] {
  const list = files.map(file => `${basename(file)}\n`).join("")
  return [
    { type: "directory", path: "modules", mode: 0o700 },
    { type: "file", path: "modules/load", mode: 0o600, data: Buffer.from(list) },
    ...files.map(
      (file): InitramfsEntry => ({
        type: "file",
        path: `modules/${basename(file)}`,
        mode: 0o600,
        data: readModule(file),
      }),
    ),
  ]
}

function readModule(file: string): Uint8Array {
  try {
    return readFileSync(file)
  } catch (cause) {
    throw new GuestError("artifact-missing", `the kernel module ${file} cannot be read`, { cause })
  }
}
