import { readFileSync } from "node:fs"
import { dirname, resolve } from "node:path"
import { ImageError, ioError, printable } from "../errors.js"
import { Fields, parseJsonObject } from "../spec/json.js"

/** How one registry is reached. */
export interface HostSettings {
  /** Talk plain HTTP to it. Nothing falls back to plain HTTP by itself, not even on this machine. */
  readonly plainHttp: boolean
  /** PEM certificates that vouch for it, instead of the system's. */
  readonly ca?: string
  /** Origins (`https://HOST[:PORT]`) that are asked first, in this order. */
  readonly mirrors: readonly string[]
}

/** Settings by registry (`HOST[:PORT]`, as image names have it). */
export type RegistryHosts = ReadonlyMap<string, HostSettings>

const NO_SETTINGS: HostSettings = { plainHttp: false, mirrors: [] }
const DOCUMENT_MAX = 1024 * 1024
const HOSTS_MAX = 10_000
const MIRRORS_MAX = 16
const KEYS: ReadonlySet<string> = new Set(["plainHttp", "ca", "mirrors"])

/** Docker's registry has its API on another host than its images' names say. */
const API_HOSTS: ReadonlyMap<string, string> = new Map([["docker.io", "registry-1.docker.io"]])

/** A place that answers for a registry. */
export interface Endpoint {
  readonly origin: string
  /** Whether plain HTTP was allowed for it. */
  readonly plainHttp: boolean
  readonly ca?: string
  readonly isMirror: boolean
}

/** Where to ask for a registry's images: its mirrors, then itself. */
export function endpointsOf(registry: string, hosts: RegistryHosts): Endpoint[] {
  const own = hosts.get(registry) ?? NO_SETTINGS
  const mirrors = own.mirrors.map(mirror => {
    const url = new URL(mirror)
    const settings = hosts.get(url.host) ?? NO_SETTINGS
    return { origin: url.origin, isMirror: true, ...access(settings, url.protocol === "http:") }
  })
  const scheme = own.plainHttp ? "http" : "https"
  const origin = `${scheme}://${API_HOSTS.get(registry) ?? registry}`
  return [...mirrors, { origin, isMirror: false, ...access(own, own.plainHttp) }]
}

function access({ ca }: HostSettings, plainHttp: boolean): Pick<Endpoint, "plainHttp" | "ca"> {
  return { plainHttp, ...(ca === undefined ? {} : { ca }) }
}

/**
 * Reads the file of per-host settings; one that is not there says nothing.
 *
 * ```json
 * { "hosts": { "registry.example:5000": { "ca": "ca.pem" },
 *              "localhost:5000": { "plainHttp": true },
 *              "docker.io": { "mirrors": ["https://mirror.example"] } } }
 * ```
 *
 * @param path - `ca` is relative to its folder
 * @throws ImageError `registry-config` with what is wrong where, `io`
 */
export function loadRegistryHosts(path: string): RegistryHosts {
  const bytes = readIfThere(path)
  if (!bytes) return new Map()
  if (bytes.length > DOCUMENT_MAX) throw configError(path, `is larger than ${DOCUMENT_MAX} bytes`)
  const top = new Fields(parseJsonObject(bytes, path), path, "registry-config")
  const hosts = new Fields(top.raw("hosts") ?? {}, "hosts", "registry-config")
  const names = Object.keys((top.raw("hosts") ?? {}) as object)
  if (names.length > HOSTS_MAX) throw configError(path, `has more than ${HOSTS_MAX} hosts`)
  return new Map(names.map(name => [name, readSettings(hosts.raw(name), name, path)]))
}

function readSettings(value: unknown, name: string, path: string): HostSettings {
  const fields = new Fields(value, `hosts.${name}`, "registry-config")
  const unknown = Object.keys(value as object).find(key => !KEYS.has(key))
  if (unknown !== undefined) throw configError(path, `hosts.${name}.${unknown} is no setting`)
  const plainHttp = fields.raw("plainHttp") ?? false
  if (typeof plainHttp !== "boolean") throw configError(path, `hosts.${name}.plainHttp is not true or false`)
  const ca = fields.string("ca")
  const mirrors = fields.strings("mirrors", MIRRORS_MAX) ?? []
  for (const mirror of mirrors)
    if (!/^https?:\/\/[^/?#@]+$/.test(mirror) || !URL.canParse(mirror))
      throw configError(path, `hosts.${name}.mirrors: ${printable(mirror)} is no https://HOST[:PORT]`)
  const pem = ca === undefined ? undefined : readPem(resolve(dirname(path), ca))
  return { plainHttp, mirrors, ...(pem === undefined ? {} : { ca: pem }) }
}

function readPem(path: string): string {
  const bytes = readIfThere(path)
  if (!bytes) throw configError(path, "is not there")
  return bytes.toString("latin1")
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined
    throw ioError(error, "cannot read the registries' settings")
  }
}

function configError(path: string, why: string): ImageError {
  return new ImageError("registry-config", `${path}: ${why}`, { path })
}
