import { mkdirSync } from "node:fs"
import { basename, join } from "node:path"
import { type CniAttachment, type CniError, type CniNetwork, loadNetwork } from "@ts-vmm/cni"
import { SandboxError } from "../../errors.js"
import { NETWORK_FOLDER } from "../../state/sandbox-directory.js"
import type { SandboxNetwork } from "../guest-network.js"
import type { CniConfig } from "../options.js"
import { connectTap } from "../tap.js"
import { guestSide } from "./guest-side.js"
import { SandboxNamespace } from "./namespace.js"
import { openCni, releaseNetwork } from "./release.js"

/** Of the interface that the plugins make, and of the guest's. */
const IF_NAME = "eth0"
const PORT_MAPPINGS = "portMappings"

/**
 * Has CNI plugins connect a network namespace of the sandbox's own, and puts the guest in its place:
 *
 * ```
 *   the plugins' network --- eth0 ==tc== tap --- the guest's eth0
 *                            '-- the sandbox's namespace --'          the guest has the MAC address, addresses, routes, MTU of eth0
 * ```
 *
 * Whatever fails, all of it is given back; or its folder stays in the sandbox's, for others to try.
 *
 * @param directory - the sandbox's; its name is its id
 * @param onEnd - called when the namespace or the tap device is deleted
 * @throws SandboxError `invalid-argument` for a configuration that is missing or none; `network-failed`
 */
export async function startCni(
  config: CniConfig,
  directory: string,
  onEnd: (error: Error) => void,
): Promise<SandboxNetwork> {
  if (process.getuid?.() !== 0)
    throw new SandboxError(
      "network-failed",
      `--network cni:${config.name} makes a network namespace: that needs root`,
    )
  const network = load(config)
  // Whoever finds this folder knows that there is something to give back.
  mkdirSync(join(directory, NETWORK_FOLDER), { mode: 0o700 })
  try {
    const started = await connect(config, network, directory, onEnd)
    const close = async () => {
      await started.close()
      await releaseNetwork(directory)
    }
    return { ...started, close }
  } catch (error) {
    // What is left then is in the sandbox's folder, for all who come to see.
    await releaseNetwork(directory).catch(() => undefined)
    throw error
  }
}

async function connect(
  { cniPluginDirs, ports }: CniConfig,
  network: CniNetwork,
  directory: string,
  onEnd: (error: Error) => void,
): Promise<SandboxNetwork> {
  const namespace = new SandboxNamespace(basename(directory))
  await namespace.create()
  const cni = openCni(directory, cniPluginDirs)
  const result = await cni.add(network, attachmentOf(namespace, ports)).catch(fail)
  const { mac, mtu } = await namespace.link(IF_NAME)
  const guest = guestSide(result, IF_NAME, mtu)
  return connectTap(await namespace.tie(IF_NAME, mtu), mac, guest, onEnd)
}

function load({ name, cniConfDir, ports }: CniConfig): CniNetwork {
  const network = readNetwork(name, cniConfDir)
  if (ports.length > 0 && !network.plugins.some(({ capabilities }) => capabilities.has(PORT_MAPPINGS)))
    throw new SandboxError(
      "invalid-argument",
      `no plugin of the network ${name} publishes ports (${PORT_MAPPINGS})`,
    )
  return network
}

function readNetwork(name: string, confDir: string | undefined): CniNetwork {
  try {
    return loadNetwork(name, confDir)
  } catch (error) {
    throw new SandboxError("invalid-argument", `--network cni:${name}: ${(error as Error).message}`, {
      cause: error,
    })
  }
}

function attachmentOf({ name, path }: SandboxNamespace, ports: CniConfig["ports"]): CniAttachment {
  const portMappings = ports.map(({ hostAddress, hostPort, guestPort, protocol }) => ({
    ...{ hostPort, containerPort: guestPort, protocol },
    // To portmap no address means every one; 0.0.0.0 would be an address like others.
    ...(hostAddress === "0.0.0.0" ? {} : { hostIP: hostAddress }),
  }))
  return {
    containerId: name,
    netns: path,
    ifName: IF_NAME,
    ...(portMappings.length > 0 ? { capabilityArgs: { portMappings } } : {}),
  }
}

function fail(cause: CniError): never {
  throw new SandboxError("network-failed", cause.message, { cause })
}
