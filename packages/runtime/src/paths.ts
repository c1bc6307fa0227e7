import { lstatSync, mkdirSync } from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"
import { SandboxError } from "./errors.js"

/** Where this user's sandboxes and images live. */
export interface RuntimePaths {
  /** Live state: sockets and records, one folder per sandbox. Short, since a socket path holds 107 bytes. */
  readonly stateDir: string
  /** Images: kept between boots. */
  readonly imageDir: string
}

/**
 * The default folders: for root /run/ts-vmm and /var/lib/ts-vmm, for others XDG_RUNTIME_DIR (or a private
 * folder in /tmp) and XDG_DATA_HOME. TS_VMM_STATE_DIR and TS_VMM_IMAGE_DIR override them.
 *
 * @example
 * ```ts
 * import { defaultPaths } from "@ts-vmm/runtime"
 *
 * console.log(defaultPaths().imageDir)
 * ```
 */
export function defaultPaths(env: NodeJS.ProcessEnv = process.env): RuntimePaths {
  const uid = process.getuid?.() ?? 0
  const data = env["XDG_DATA_HOME"] || join(env["HOME"] || homedir(), ".local", "share")
  return {
    stateDir: env["TS_VMM_STATE_DIR"] || defaultStateDir(uid, env),
    imageDir:
      env["TS_VMM_IMAGE_DIR"] || (uid === 0 ? "/var/lib/ts-vmm/images" : join(data, "ts-vmm", "images")),
  }
}

/**
 * The file of per-host registry settings (`loadRegistryHosts` of `@ts-vmm/oci-image/registry`): for root
 * /etc/ts-vmm/registries.json, for others below XDG_CONFIG_HOME. TS_VMM_REGISTRIES overrides it. It need not be there.
 *
 * @example
 * ```ts
 * import { defaultRegistriesFile } from "@ts-vmm/runtime"
 *
 * console.log(defaultRegistriesFile())
 * ```
 */
export function defaultRegistriesFile(env: NodeJS.ProcessEnv = process.env): string {
  return env["TS_VMM_REGISTRIES"] || join(configDir(env), "registries.json")
}

/**
 * The file that says which images may run (`loadPolicy` of `@ts-vmm/oci-image/policy`): for root
 * /etc/ts-vmm/policy.json, for others below XDG_CONFIG_HOME; it need not be there. TS_VMM_POLICY overrides it; that one
 * has to be.
 *
 * @example
 * ```ts
 * import { defaultPolicyFile } from "@ts-vmm/runtime"
 *
 * console.log(defaultPolicyFile().path)
 * ```
 */
export function defaultPolicyFile(env: NodeJS.ProcessEnv = process.env): { path: string; isNamed: boolean } {
  const named = env["TS_VMM_POLICY"]
  return named
    ? { path: named, isNamed: true }
    : { path: join(configDir(env), "policy.json"), isNamed: false }
}

function configDir(env: NodeJS.ProcessEnv): string {
  if (process.getuid?.() === 0) return "/etc/ts-vmm"
  return join(env["XDG_CONFIG_HOME"] || join(env["HOME"] || homedir(), ".config"), "ts-vmm")
}

function defaultStateDir(uid: number, env: NodeJS.ProcessEnv): string {
  if (uid === 0) return "/run/ts-vmm"
  return env["XDG_RUNTIME_DIR"] ? join(env["XDG_RUNTIME_DIR"], "ts-vmm") : `/tmp/ts-vmm-${uid}`
}

/**
 * Makes `path` (mode 0700) or checks that what is there is ours alone: a folder in /tmp may have been put
 * there by somebody else.
 *
 * @throws SandboxError `invalid-argument` when it is no folder, another's, or open to others
 */
export function ensurePrivateDirectory(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 })
  const stat = lstatSync(path)
  const uid = process.getuid?.() ?? 0
  if (!stat.isDirectory()) throw new SandboxError("invalid-argument", `${path} is not a folder`)
  if (stat.uid !== uid) {
    throw new SandboxError(
      "invalid-argument",
      `${path} belongs to uid ${stat.uid}, not to you (uid ${uid}); set TS_VMM_STATE_DIR`,
    )
  }
  if ((stat.mode & 0o077) !== 0) {
    throw new SandboxError("invalid-argument", `${path} is open to other users; run chmod 700 ${path}`)
  }
}
