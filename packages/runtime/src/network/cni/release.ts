import { existsSync, rmSync } from "node:fs"
import { basename, join } from "node:path"
import { Cni } from "@ts-vmm/cni"
import { launcherPath } from "@ts-vmm/native"
import { SandboxError } from "../../errors.js"
import { NETWORK_FOLDER } from "../../state/sandbox-directory.js"
import { SandboxNamespace } from "./namespace.js"

/** Less than a sandbox has to start: then the error says which plugin it was. */
const PLUGIN_TIMEOUT_MS = 20_000

/** Plugins that run for a sandbox, with their records in its folder: both end with it, and with its owner. */
export function openCni(directory: string, pluginDirs?: readonly string[]): Cni {
  return new Cni({
    stateDir: join(directory, NETWORK_FOLDER),
    launcher: launcherPath(),
    timeoutMs: PLUGIN_TIMEOUT_MS,
    ...(pluginDirs ? { pluginDirs } : {}),
  })
}

/**
 * Gives back all that a sandbox has of networks: DEL, then its namespace, then the folder that says that there is
 * something. What fails is left as it is, to be tried again.
 *
 * @param directory - the sandbox's; its name is its id
 * @throws SandboxError `network-failed`
 */
export async function releaseNetwork(directory: string): Promise<void> {
  const folder = join(directory, NETWORK_FOLDER)
  if (!existsSync(folder)) return
  const cni = openCni(directory)
  try {
    for (const attachment of cni.attachments()) await cni.del(attachment)
  } catch (error) {
    throw new SandboxError("network-failed", (error as Error).message, { cause: error })
  }
  await new SandboxNamespace(basename(directory)).remove()
  rmSync(folder, { recursive: true, force: true })
}
