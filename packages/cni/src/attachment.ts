import { isIP } from "node:net"
import { CniError } from "./errors.js"
import { shown } from "./json.js"
import { isArgument, isFolder, isInterfaceName, isName } from "./names.js"

/** A port of the host that leads to one of the container: the capability `portMappings`. */
export interface CniPortMapping {
  /** 1 to 65,535. */
  readonly hostPort: number
  readonly containerPort: number
  readonly protocol: "tcp" | "udp" | "sctp"
  /** Default: every address of the host. */
  readonly hostIP?: string
}

/**
 * What the runtime says to plugins that ask for it by their `capabilities`. Keys are the names of capabilities
 * (CNI conventions, "Dynamic Plugin specific fields").
 */
export interface CniCapabilityArgs {
  readonly portMappings?: readonly CniPortMapping[]
  readonly [capability: string]: unknown
}

/** One interface of one container. */
export interface CniAttachment {
  /** Up to 128 of a-z A-Z 0-9 _ . -, beginning with a letter or digit. */
  readonly containerId: string
  /** Path of the network namespace: `/run/netns/NAME`. */
  readonly netns: string
  /** The interface's name in it, at most 15 bytes. */
  readonly ifName: string
  /** CNI_ARGS: for plugins that know the key. */
  readonly args?: Readonly<Record<string, string>>
  readonly capabilityArgs?: CniCapabilityArgs
}

const MAX_ARGS = 64
const MAX_PORTS = 1024

/** @throws what `makeError` makes, CniError `invalid-argument` by default */
export function checkAttachment(
  attachment: CniAttachment,
  makeError = (why: string) => new CniError("invalid-argument", why),
): void {
  const { containerId, netns, ifName, args = {}, capabilityArgs = {} } = attachment
  if (!isName(containerId)) throw makeError(`the container id is ${shown(containerId)}`)
  if (!isInterfaceName(ifName)) throw makeError(`the interface name is ${shown(ifName)}`)
  if (!isFolder(netns)) throw makeError(`the path of the network namespace is ${shown(netns)}`)
  const pairs = Object.entries(args)
  if (pairs.length > MAX_ARGS) throw makeError(`${pairs.length} arguments are too many`)
  for (const [key, value] of pairs)
    if (!/^\w{1,64}$/.test(key) || !isArgument(value))
      throw makeError(`the argument ${key} is ${shown(value)}`)
  const { portMappings = [] } = capabilityArgs
  if (!Array.isArray(portMappings) || portMappings.length > MAX_PORTS)
    throw makeError(`portMappings is no list of at most ${MAX_PORTS}`)
  for (const one of portMappings)
    if (!isPortMapping(one))
      throw makeError("portMappings has what is no port of the host and one of the container")
}

function isPortMapping({ hostPort, containerPort, protocol, hostIP }: CniPortMapping): boolean {
  const arePorts = [hostPort, containerPort].every(
    port => Number.isInteger(port) && port > 0 && port < 65_536,
  )
  return arePorts && ["tcp", "udp", "sctp"].includes(protocol) && (hostIP === undefined || isIP(hostIP) !== 0)
}
