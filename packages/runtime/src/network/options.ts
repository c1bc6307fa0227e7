import { isIPv4 } from "node:net"
import { isAbsolute } from "node:path"
import { SandboxError } from "../errors.js"
import type { HypervisorName } from "../hypervisor/hypervisor.js"
import { familyOf, type NetworkAddress, parseNetworkAddress } from "./address.js"

/**
 * How a sandbox is connected: not at all; through passt, a network stack in a process of its own; with a tap device of
 * the host (`tap:NAME`), which is there already; or by CNI plugins, as a configuration says that is called NAME
 * (`cni:NAME`), which needs root and the package iproute2.
 */
export type NetworkMode = "none" | "passt" | `tap:${string}` | `cni:${string}`

/** Where the networks of `cni:NAME` come from. */
export interface CniNetworkOptions {
  /** Folder of configurations. Default `/etc/cni/net.d`. */
  readonly cniConfDir?: string
  /** Folders of plugins. Default `/opt/cni/bin` and `/usr/lib/cni`. */
  readonly cniPluginDirs?: readonly string[]
}

/** The guest's side of a tap device: its network is not ours, so nothing of this has a default. */
export interface GuestNetworkOptions {
  /** `192.0.2.2/24`, `2001:db8::2/64`, at most 8. Without any the guest has to find its own, and may use any. */
  readonly addresses?: readonly string[]
  /** The way out: at most one address of IPv4 and one of IPv6. */
  readonly gateways?: readonly string[]
  /** For /etc/resolv.conf, at most 3. */
  readonly nameServers?: readonly string[]
  /** As `02:00:00:00:00:01`. Default: a random one. */
  readonly macAddress?: string
  /** Bytes, 1280 to 65,535. Default: that of the tap device. */
  readonly mtu?: number
  /** As many as the tap device was made for, 1 to 16. Default 1. */
  readonly queuePairs?: number
  /**
   * The host's kernel moves the frames (`/dev/vhost-net`), past this process: with one queue pair, and nothing
   * checks what the guest sends, not even against `addresses`. Needs the `kvm` hypervisor. Default false.
   */
  readonly vhost?: boolean
}

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

/** A tap device and the guest's side of it, checked. */
export interface TapConfig {
  readonly kind: "tap"
  readonly name: string
  readonly addresses: readonly NetworkAddress[]
  readonly gateways: readonly { readonly family: 4 | 6; readonly address: string }[]
  readonly nameServers: readonly string[]
  readonly macAddress: string | undefined
  readonly mtu: number | undefined
  readonly queuePairs: number
  readonly vhost: boolean
}

/** A network by CNI plugins, as far as it can be checked without its configuration. */
export interface CniConfig extends CniNetworkOptions {
  readonly kind: "cni"
  readonly name: string
  readonly ports: readonly Required<PublishedPort>[]
}

/** {@link NetworkMode} and what goes with it, checked. */
export type NetworkConfig =
  | { readonly kind: "none" }
  | { readonly kind: "passt"; readonly ports: readonly Required<PublishedPort>[] }
  | TapConfig
  | CniConfig

const LOOPBACK = "127.0.0.1"
const MAX_PORTS = 256
const MAX_ADDRESSES = 8
/** What resolv.conf(5) takes. */
const MAX_NAME_SERVERS = 3
/** The smallest MTU of IPv6. */
const MIN_MTU = 1280
const MAX_MTU = 65_535
const MAX_QUEUE_PAIRS = 16
const TAP = "tap:"
const CNI = "cni:"

/** @throws SandboxError `invalid-argument`, naming the option */
export function checkNetwork(
  mode: NetworkMode,
  ports: readonly PublishedPort[],
  guest: GuestNetworkOptions | undefined,
  cni: CniNetworkOptions = {},
): NetworkConfig {
  if (mode.startsWith(TAP)) {
    if (ports.length > 0)
      throw invalid("a tap device has no published ports: its host reaches the guest anyway")
    return checkTap(mode.slice(TAP.length), guest ?? {})
  }
  if (mode !== "none" && mode !== "passt" && !mode.startsWith(CNI))
    throw invalid(`unknown network "${mode}": use none, passt, tap:NAME or cni:NAME`)
  if (guest && Object.values(guest).some(value => value !== undefined && !isEmpty(value)))
    throw invalid("addresses, gateways, name servers, MAC address, MTU and vhost are for --network tap:NAME")
  if (mode === "none" && ports.length > 0)
    throw invalid("a sandbox without a network has no ports: use --network passt")
  if (ports.length > MAX_PORTS) throw invalid(`${ports.length} ports are too many (at most ${MAX_PORTS})`)
  if (mode.startsWith(CNI)) return checkCni(mode.slice(CNI.length), ports.map(checkPort), cni)
  return mode === "none" ? { kind: "none" } : { kind: "passt", ports: ports.map(checkPort) }
}

function checkCni(
  name: string,
  ports: CniConfig["ports"],
  { cniConfDir, cniPluginDirs }: CniNetworkOptions,
): CniConfig {
  if (!/^[a-zA-Z0-9][\w.-]{0,127}$/.test(name))
    throw invalid(`"${name}" is no name of a network: use cni:NAME`)
  for (const folder of [cniConfDir ?? "/", ...(cniPluginDirs ?? [])])
    if (!isAbsolute(folder)) throw invalid(`"${folder}" is no absolute path of a folder`)
  return {
    kind: "cni",
    name,
    ports,
    ...(cniConfDir === undefined ? {} : { cniConfDir }),
    ...(cniPluginDirs === undefined || cniPluginDirs.length === 0 ? {} : { cniPluginDirs }),
  }
}

/** @throws SandboxError `invalid-argument` for what this hypervisor cannot connect its guests with */
export function checkNetworkOn(hypervisor: HypervisorName, network: NetworkConfig): void {
  if (hypervisor !== "kvm" && network.kind === "tap" && network.vhost)
    throw invalid(
      `vhost needs the kvm hypervisor: on ${hypervisor} a guest's memory is not the host kernel's to use`,
    )
}

function isEmpty(value: unknown): boolean {
  return value === false || (Array.isArray(value) && value.length === 0)
}

function checkTap(name: string, options: GuestNetworkOptions): TapConfig {
  const { addresses = [], gateways = [], nameServers = [], macAddress, mtu } = options
  const { queuePairs = 1, vhost = false } = options
  if (!/^[\w.-]{1,15}$/.test(name)) throw invalid(`"${name}" is no name of a tap device: use tap:NAME`)
  if (addresses.length > MAX_ADDRESSES) throw invalid(`a guest has at most ${MAX_ADDRESSES} addresses`)
  if (nameServers.length > MAX_NAME_SERVERS)
    throw invalid(`a guest has at most ${MAX_NAME_SERVERS} name servers`)
  if (macAddress !== undefined && !/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/i.test(macAddress))
    throw invalid(`"${macAddress}" is no MAC address of one machine`)
  if (mtu !== undefined && !isWithin(mtu, MIN_MTU, MAX_MTU))
    throw invalid(`an MTU is ${MIN_MTU} to ${MAX_MTU}, not ${mtu}`)
  if (!isWithin(queuePairs, 1, MAX_QUEUE_PAIRS))
    throw invalid(`a tap device has 1 to ${MAX_QUEUE_PAIRS} queue pairs, not ${queuePairs}`)
  if (vhost && queuePairs > 1) throw invalid(`vhost has one queue pair, not ${queuePairs}`)
  return {
    kind: "tap",
    name,
    addresses: addresses.map(checkAddress),
    gateways: checkGateways(gateways),
    nameServers: nameServers.map(checkNameServer),
    macAddress,
    mtu,
    queuePairs,
    vhost,
  }
}

function checkAddress(text: string): NetworkAddress {
  const address = parseNetworkAddress(text)
  if (!address) throw invalid(`"${text}" is no address with a prefix: give 192.0.2.2/24 or 2001:db8::2/64`)
  return address
}

function checkGateways(gateways: readonly string[]): TapConfig["gateways"] {
  const checked = gateways.map(address => {
    const family = familyOf(address)
    if (family === 0) throw invalid(`the gateway "${address}" is no address`)
    return { family, address }
  })
  if (new Set(checked.map(({ family }) => family)).size < checked.length)
    throw invalid("a guest has one gateway for IPv4 and one for IPv6")
  return checked
}

function checkNameServer(address: string): string {
  if (familyOf(address) === 0) throw invalid(`the name server "${address}" is no address`)
  return address
}

function isWithin(value: number, least: number, most: number): boolean {
  return Number.isInteger(value) && value >= least && value <= most
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
