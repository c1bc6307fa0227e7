import { BlockList, isIP } from "node:net"

/** A place that has copies of a registry's images. */
export interface Mirror {
  /** `https://HOST[:PORT]`, or `http://…`, which allows plain HTTP for it. */
  readonly url: string
  /** Whether it is asked for digests only, so that it cannot say what a tag stands for. Default false. */
  readonly pullByDigestOnly?: boolean
}

/** A certificate and its key, both PEM. */
export interface ClientCertificate {
  readonly cert: string
  /** A secret. */
  readonly key: string
}

/** How one registry is reached. */
export interface HostSettings {
  /** Talk plain HTTP to it. Nothing falls back to plain HTTP by itself, not even on this machine. Default false. */
  readonly plainHttp?: boolean
  /** PEM certificates that vouch for it, instead of the system's. */
  readonly ca?: string
  /** Believe whoever answers. Anybody on the way can read credentials and change what tags stand for. */
  readonly skipVerify?: boolean
  /** What this client proves itself with, PEM. A host that redirects does not pass it on. */
  readonly clientCertificate?: ClientCertificate
  /** The proxy that leads to it, whatever the environment says; false for none. Default: as the environment says. */
  readonly proxy?: string | false
  /** Sent with each request to this host, and to no other. */
  readonly headers?: Readonly<Record<string, string>>
  /** Asked first, in this order. Each is a host of its own, with its own settings and credentials. */
  readonly mirrors?: readonly (string | Mirror)[]
  /** Hosts that may be given its credentials to make tokens of them, besides those of its own domain. */
  readonly tokenHosts?: readonly string[]
}

/** How registries are reached, by name (`HOST[:PORT]`, as image names have it); `*` is every other host. */
export type RegistryHosts = ReadonlyMap<string, HostSettings>

/** A place that answers for a registry. */
export interface Endpoint {
  readonly origin: string
  readonly isMirror: boolean
  readonly pullByDigestOnly: boolean
  readonly settings: HostSettings
}

/** Docker's registry has its API on another host than its images' names say. */
const API_HOSTS: ReadonlyMap<string, string> = new Map([["docker.io", "registry-1.docker.io"]])

const loopback = new BlockList()
loopback.addSubnet("127.0.0.0", 8)
loopback.addAddress("::1", "ipv6")

/** Where to ask for a registry's images: its mirrors, then itself. */
export function endpointsOf(registry: string, hosts: RegistryHosts): Endpoint[] {
  const settings = settingsOf(registry, hosts)
  const mirrors = (settings.mirrors ?? []).map((mirror): Endpoint => {
    const { url, pullByDigestOnly = false } = typeof mirror === "string" ? { url: mirror } : mirror
    const { host, origin } = new URL(url)
    return { origin, isMirror: true, pullByDigestOnly, settings: settingsOf(host, hosts) }
  })
  const scheme = settings.plainHttp ? "http" : "https"
  const { origin } = new URL(`${scheme}://${API_HOSTS.get(registry) ?? registry}`)
  return [...mirrors, { origin, isMirror: false, pullByDigestOnly: false, settings }]
}

/** How another host is reached that a registry sends us to: by its own settings, if it has any. */
export function endpointFor(url: URL, from: Endpoint, hosts: RegistryHosts): Endpoint {
  if (url.origin === from.origin) return from
  const settings = settingsOf(url.host, hosts)
  return {
    origin: url.origin,
    isMirror: false,
    pullByDigestOnly: false,
    settings: { ...settings, headers: {} },
  }
}

/**
 * Whether a registry may send us from one address on to another: always to https, never from https to anything else,
 * and from plain HTTP to plain HTTP only on one host, on this machine, or where that host's settings allow it.
 */
export function maySendOn(from: URL, to: URL, hosts: RegistryHosts): boolean {
  if (to.username !== "" || to.password !== "") return false
  if (to.protocol === "https:") return true
  if (to.protocol !== "http:" || from.protocol !== "http:") return false
  if (to.hostname === from.hostname || (isLoopback(to) && isLoopback(from))) return true
  return hosts.get(to.host)?.plainHttp === true
}

/** Whether a URL's host is this machine. */
export function isLoopback({ hostname }: URL): boolean {
  if (hostname === "localhost") return true
  const address = hostname.replace(/^\[|\]$/g, "")
  const family = isIP(address)
  return family !== 0 && loopback.check(address, family === 6 ? "ipv6" : "ipv4")
}

function settingsOf(host: string, hosts: RegistryHosts): HostSettings {
  return hosts.get(host) ?? hosts.get("*") ?? {}
}
