import type { CniAddress, CniResult } from "@ts-vmm/cni"
import { SandboxError } from "../../errors.js"
import { addressBytes } from "../address.js"
import type { GuestNetwork, GuestRoute } from "../guest-network.js"

/** What resolv.conf(5) takes. */
const MAX_NAME_SERVERS = 3

/**
 * What the plugins gave the interface in the namespace, for the guest to have instead.
 *
 * @throws SandboxError `network-failed` for what a guest cannot have
 */
export function guestSide(result: CniResult, ifName: string, mtu: number): GuestNetwork {
  const ips = result.ips.filter(ip => isOn(ip, result, ifName))
  // The agent sets addresses as ifconfig does, which knows one.
  if (ips.filter(({ family }) => family === 4).length > 1)
    throw new SandboxError(
      "network-failed",
      "the plugins gave more than one IPv4 address, and a guest has one",
    )
  const routes = result.routes.map(({ destination, gateway }) => ({
    ...destination,
    gateway: gateway ?? ips.find(({ family }) => family === destination.family)?.gateway,
  }))
  const gateways = ([4, 6] as const).flatMap(family => {
    const address = routes.find(one => one.family === family && one.prefixLength === 0)?.gateway
    return address === undefined ? [] : [{ family, address }]
  })
  return {
    addresses: ips.map(({ family, address, prefixLength }) => ({ family, address, prefixLength })),
    gateways,
    routes: [
      ...waysTo(routes, ips),
      ...routes.filter(({ prefixLength }) => prefixLength > 0).map(withoutUndefined),
    ],
    nameServers: result.dns.nameservers.slice(0, MAX_NAME_SERVERS),
    mtu,
  }
}

/** Addresses that no interface is named for are the container's, which has one. */
function isOn({ interface: index }: CniAddress, { interfaces }: CniResult, ifName: string): boolean {
  const one = index === undefined ? undefined : interfaces[index]
  return one === undefined || (one.sandbox !== undefined && one.name === ifName)
}

/** Routers outside of the networks of the guest's addresses: they are on the wire nevertheless. */
function waysTo(
  routes: readonly { gateway: string | undefined }[],
  ips: readonly CniAddress[],
): GuestRoute[] {
  const gateways = new Set(routes.flatMap(({ gateway }) => gateway ?? []))
  return [...gateways].flatMap(address => {
    const bytes = addressBytes(address)
    const isLinkLocal = bytes.length === 16 && bytes[0] === 0xfe && ((bytes[1] as number) & 0xc0) === 0x80
    if (isLinkLocal || ips.some(ip => isWithin(bytes, ip))) return []
    return [
      bytes.length === 4
        ? { family: 4, address, prefixLength: 32 }
        : { family: 6, address, prefixLength: 128 },
    ]
  })
}

function isWithin(bytes: Buffer, network: CniAddress): boolean {
  const other = addressBytes(network.address)
  return (
    other.length === bytes.length && bits(other, network.prefixLength) === bits(bytes, network.prefixLength)
  )
}

function bits(bytes: Buffer, count: number): string {
  return [...bytes]
    .map(byte => byte.toString(2).padStart(8, "0"))
    .join("")
    .slice(0, count)
}

function withoutUndefined({
  gateway,
  ...route
}: Omit<GuestRoute, "gateway"> & { gateway: string | undefined }): GuestRoute {
  return gateway === undefined ? route : { ...route, gateway }
}
