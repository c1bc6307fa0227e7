import { BlockList, isIP } from "node:net"
import { ImageError, printable } from "../errors.js"
import { type HostSettings, isLoopback } from "./hosts.js"

/** Where HTTPS_PROXY and its kin are looked up; the names of a process's environment. */
export type ProxyEnvironment = Readonly<Record<string, string | undefined>>

const SUBNET = /^([^/]+)\/(\d{1,3})$/
const HOST_PORT = /^(\[[^\]]*\]|[^:]*):(\d*)$/

/**
 * The proxy that leads to an address; undefined when it is asked directly. What the settings say of its host goes first,
 * and is all that counts for this machine itself. Otherwise the environment decides as for programs written in Go, docker,
 * podman and skopeo among them: HTTPS_PROXY or HTTP_PROXY by the address's protocol, and NO_PROXY; upper case first.
 *
 * @throws ImageError `registry-config` for an address of a proxy that is none
 * @see golang.org/x/net/http/httpproxy, "FromEnvironment", "Config"
 */
export function proxyFor(
  url: URL,
  { proxy }: HostSettings,
  environment: ProxyEnvironment,
): ProxyAddress | undefined {
  if (proxy === false) return undefined
  if (proxy !== undefined) return parseProxy(proxy, "proxy")
  if (isLoopback(url)) return undefined
  const name = url.protocol === "https:" ? "HTTPS_PROXY" : "HTTP_PROXY"
  const text = variable(environment, name)
  if (text === "" || isDirect(url, variable(environment, "NO_PROXY"))) return undefined
  // In a CGI program HTTP_PROXY is what the client sent as "Proxy:" (CVE-2016-5386).
  if (name === "HTTP_PROXY" && environment["REQUEST_METHOD"])
    throw configError(name, "is not used in a CGI program")
  return parseProxy(text, name)
}

/** A proxy, and what lets one use it. */
export interface ProxyAddress {
  /** `http:` or `https:`, without credentials. */
  readonly url: URL
  /** For `Proxy-Authorization`. A secret. */
  readonly authorization: string | undefined
}

/**
 * Reads the address of a proxy, with or without `http://`.
 *
 * @param where - names the place in messages; the address itself may hold a password
 * @throws ImageError `registry-config`
 */
export function parseProxy(text: string, where: string): ProxyAddress {
  const whole = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`
  if (!URL.canParse(whole)) throw configError(where, "is no http://HOST:PORT")
  const url = new URL(whole)
  if (url.protocol !== "http:" && url.protocol !== "https:")
    throw configError(where, `is a ${printable(url.protocol)} proxy: only http and https ones are used`)
  const { username, password } = url
  const credentials = decoded(`${username}:${password}`)
  const authorization =
    username === "" && password === "" ? undefined : `Basic ${Buffer.from(credentials).toString("base64")}`
  return { url: new URL(`${url.protocol}//${url.host}`), authorization }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function variable(environment: ProxyEnvironment, name: string): string {
  return environment[name] || environment[name.toLowerCase()] || ""
}

/** Whether NO_PROXY has the address: `*`, a subnet, an address, a name and what is below it; each but the first with a port. */
function isDirect(url: URL, list: string): boolean {
  const host = url.hostname.toLowerCase().replace(/^\[|\]$/g, "")
  const port = url.port || (url.protocol === "https:" ? "443" : "80")
  const entries = list.split(",").map(entry => entry.trim().toLowerCase())
  return entries.some(entry => entry === "*" || isInSubnet(entry, host) || isNamed(entry, host, port))
}

function isInSubnet(entry: string, host: string): boolean {
  const [, network = "", bits = ""] = SUBNET.exec(entry) ?? []
  const family = isIP(network)
  if (family === 0 || isIP(host) !== family || Number(bits) > (family === 6 ? 128 : 32)) return false
  const type = family === 6 ? "ipv6" : "ipv4"
  const list = new BlockList()
  list.addSubnet(network, Number(bits), type)
  return list.check(host, type)
}

function isNamed(entry: string, host: string, port: string): boolean {
  // An IPv6 address without brackets has colons, but no port.
  const [, named = entry, onPort = ""] = (isIP(entry) === 0 && HOST_PORT.exec(entry)) || []
  const name = named.replace(/^\[|\]$/g, "").replace(/^\*\./, ".")
  if (name === "" || (onPort !== "" && onPort !== port)) return false
  if (isIP(host) !== 0 || isIP(name) !== 0) return name === host
  return name.startsWith(".") ? host.endsWith(name) : name === host || host.endsWith(`.${name}`)
}

function configError(where: string, why: string): ImageError {
  return new ImageError("registry-config", `${where} ${why}`)
}
