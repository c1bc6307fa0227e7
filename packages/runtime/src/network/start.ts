import type { SandboxNetwork } from "./guest-network.js"
import type { CniConfig, NetworkConfig } from "./options.js"
import { startPasst } from "./passt.js"
import { startTap } from "./tap.js"

/**
 * Starts the host's side of a network that needs no more than what it is made of; for others see `cni/start.ts`.
 *
 * @param onEnd - called when it ends by itself
 * @throws SandboxError `invalid-argument`, `hypervisor-unavailable`
 */
export async function startNetwork(
  config: Exclude<NetworkConfig, { kind: "none" } | CniConfig>,
  onEnd: (error: Error) => void,
): Promise<SandboxNetwork> {
  return config.kind === "tap" ? startTap(config, onEnd) : startPasst(config.ports, onEnd)
}
