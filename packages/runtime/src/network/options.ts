import { isIPv4 } from "node:net"
import { SandboxError } from "../errors.js"

/** How a sandbox is connected: not at all, or through passt, a network stack in a process of its own. */
export type NetworkMode = "none" | "passt"

/** A port of the host that leads to one of the guest. */
export interface PublishedPort {
  /** IPv4 address of the host. Default 127.0.0.1: only this machine. `0.0.0.0` for all. */
  readonly hostAddress?: string
  /** 1 to 65,535. */
  readonly hostPort: number
  readonly guestPort: number
  /** Default tcp. */
  readonly protocol?: "tcp" | "udp"
}

/** {@link NetworkMode} and what goes with it, checked. */
export interface NetworkConfig {
  readonly mode: NetworkMode
  readonly ports: readonly Required<PublishedPort>[]
}

const LOOPBACK = "127.0.0.1"
const MAX_PORTS = 256

/** @throws SandboxError `invalid-argument`, naming the option */
export function checkNetwork(mode: NetworkMode, ports: readonly PublishedPort[]): NetworkConfig {
  if (!["none", "passt"].includes(mode)) throw invalid(`unknown network "${mode}": use none or passt`)
  if (mode === "none" && ports.length > 0)
    throw invalid("a sandbox without a network has no ports: use --network passt")
  if (ports.length > MAX_PORTS) throw invalid(`${ports.length} ports are too many (at most ${MAX_PORTS})`)
  return { mode, ports: ports.map(checkPort) }
}

function checkPort(port: PublishedPort): Required<PublishedPort> {
  const { hostAddress = LOOPBACK, hostPort, guestPort, protocol = "tcp" } = port
  if (!isIPv4(hostAddress)) throw invalid(`the address "${hostAddress}" of a port is no IPv4 address`)
  for (const number of [hostPort, guestPort])
    if (!(Number.isInteger(number) && number >= 1 && number <= 65_535))
      throw invalid(`${number} is no port: give 1 to 65535`)
  if (!["tcp", "udp"].includes(protocol)) throw invalid(`unknown protocol "${protocol}": use tcp or udp`)
  return { hostAddress, hostPort, guestPort, protocol }
}

function invalid(message: string): SandboxError {
  return new SandboxError("invalid-argument", message)
}
