import { isIP } from "node:net"
import { ImageError, printable } from "../errors.js"
import { type Endpoint, maySendOn, type RegistryHosts } from "./hosts.js"

/**
 * The address at which a registry has its tokens made.
 *
 * @throws ImageError `registry-protocol`, `registry-insecure`
 */
export function readRealm(realm: string | undefined, endpoint: Endpoint, hosts: RegistryHosts): URL {
  const own = new URL(endpoint.origin)
  const { host } = own
  if (realm === undefined || !URL.canParse(realm))
    throw new ImageError("registry-protocol", `${host} asks for a token but does not say of whom`, { host })
  const url = new URL(realm)
  if (maySendOn(own, url, hosts)) return url
  throw new ImageError(
    "registry-insecure",
    `${host} wants a token fetched from ${url.protocol}//${url.host}: only https is, or what plainHttp is set for`,
    { host, to: printable(url.host) },
  )
}

/** Registries whose tokens are made on a host beside them. */
const KNOWN_REALMS: ReadonlyMap<string, string> = new Map([["registry-1.docker.io", "auth.docker.io"]])

/**
 * Whether a realm may see a registry's credentials. Docker and containerd send them to any; here it has to be the
 * registry's own host, one above or below it, or one that the settings name: a registry that was taken over, or a
 * mirror, could name any host there is. Hosts side by side are not enough: below a cloud's domain they are those of
 * tenants.
 */
export function isTrustedRealm(realm: URL, { origin, settings }: Endpoint): boolean {
  const own = new URL(origin)
  if ((settings.tokenHosts ?? []).includes(realm.host) || KNOWN_REALMS.get(own.host) === realm.host)
    return true
  return own.hostname === realm.hostname || isAbove(own, realm) || isAbove(realm, own)
}

/** Whether one host's name ends in the other's: `gitlab.com` is above `registry.gitlab.com`. */
function isAbove(upper: URL, lower: URL): boolean {
  const isName = isIP(upper.hostname) === 0 && upper.hostname.includes(".")
  return isName && lower.hostname.endsWith(`.${upper.hostname}`)
}
