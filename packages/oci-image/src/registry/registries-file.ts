import { createPrivateKey, X509Certificate } from "node:crypto"
import { readFileSync } from "node:fs"
import { dirname, resolve } from "node:path"
import { ImageError, ioError, printable } from "../errors.js"
import { Fields, isObject, parseJsonObject } from "../spec/json.js"
import type { ClientCertificate, HostSettings, Mirror, RegistryHosts } from "./hosts.js"
import { parseProxy } from "./proxy-settings.js"

const DOCUMENT_MAX = 1024 * 1024
const HOSTS_MAX = 10_000
const LIST_MAX = 16
const HEADERS_MAX = 32
const HOST = /^[A-Za-z0-9.:[\]-]{1,255}$/
const ORIGIN = /^https?:\/\/[^/?#@\s]+$/
const HOST_KEYS = [
  ...["plainHttp", "ca", "proxy", "skipVerify", "cert", "key"],
  ...["headers", "mirrors", "tokenHosts"],
]
/** RFC 9110, 5.6.2, "token". */
const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/
const HEADER_VALUE = /^[\x20-\x7e]{0,4096}$/
/** What the client itself sets: to write over it would break the protocol, or go around its rules. */
const OWN_HEADERS: ReadonlySet<string> = new Set([
  ...["accept", "accept-encoding", "authorization", "connection", "content-length", "content-range"],
  ...[
    "content-type",
    "expect",
    "host",
    "user-agent",
    "keep-alive",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
  ],
])

/**
 * Reads the file of per-host settings; one that is not there says nothing. Keys it does not know are refused: a
 * setting that is spelt wrong would not protect anybody.
 *
 * ```json
 * {
 *   "hosts": {
 *     "docker.io": { "mirrors": ["https://a.example", { "url": "https://b.example", "pullByDigestOnly": true }] },
 *     "registry.example:5000": { "ca": "ca.pem", "headers": { "x-team": "a" }, "tokenHosts": ["login.example"] },
 *     "10.0.0.5:5000": { "plainHttp": true },
 *     "secure.example": { "cert": "client.pem", "key": "client.key", "proxy": false },
 *     "test.example": { "skipVerify": true }
 *   },
 *   "default": { "ca": "company.pem", "proxy": "http://proxy.example:3128" }
 * }
 * ```
 *
 * `default` is for every host that is not named; it ends up under `*`.
 *
 * `proxy` goes before HTTPS_PROXY and its kin, for loopback too; false is for none.
 *
 * @param path - `ca`, `cert` and `key` name files relative to its folder
 * @throws ImageError `registry-config` with what is wrong where, `json-invalid`, `io`
 * @example
 * ```ts
 * import { loadRegistryHosts, RegistryClient } from "@ts-vmm/oci-image/registry"
 *
 * await using client = new RegistryClient({ hosts: loadRegistryHosts("./registries.json") })
 * ```
 */
export function loadRegistryHosts(path: string): RegistryHosts {
  const bytes = readIfThere(path)
  if (!bytes) return new Map()
  if (bytes.length > DOCUMENT_MAX) throw configError(path, `is larger than ${DOCUMENT_MAX} bytes`)
  const file = new SettingsFile(path)
  const top = file.object(parseJsonObject(bytes, path), "the file", ["hosts", "default"])
  const entries = Object.entries(objectOf(path, "hosts", top.raw("hosts") ?? {}))
  if (entries.length > HOSTS_MAX) throw configError(path, `has more than ${HOSTS_MAX} hosts`)
  const hosts = new Map(entries.map(([name, value]) => [file.host(name), file.settings(value, name)]))
  const others = top.raw("default")
  if (others !== undefined) hosts.set("*", file.defaults(others))
  return hosts
}

/** Reads the parts of one file; every refusal names the place. */
class SettingsFile {
  readonly #path: string

  constructor(path: string) {
    this.#path = path
  }

  object(value: unknown, where: string, keys: readonly string[]): Fields {
    const unknown = Object.keys(objectOf(this.#path, where, value)).find(key => !keys.includes(key))
    if (unknown !== undefined) throw configError(this.#path, `${where}: ${printable(unknown)} is no setting`)
    return new Fields(value, `${this.#path}: ${where}`, "registry-config")
  }

  host(name: string): string {
    if (HOST.test(name) && URL.canParse(`https://${name}`)) return name
    throw configError(this.#path, `hosts: ${printable(name)} is no HOST[:PORT]`)
  }

  settings(value: unknown, name: string): HostSettings {
    const fields = this.object(value, `hosts.${name}`, HOST_KEYS)
    const skipVerify = boolean(fields, "skipVerify")
    const clientCertificate = this.#certificate(fields)
    const headers = this.#headers(fields)
    const mirrors = fields
      .array("mirrors", LIST_MAX)
      ?.map((one, i) => this.#mirror(one, `${name}.mirrors[${i}]`))
    const tokenHosts = fields.strings("tokenHosts", LIST_MAX)
    return {
      ...this.#access(fields),
      ...(skipVerify === undefined ? {} : { skipVerify }),
      ...(clientCertificate === undefined ? {} : { clientCertificate }),
      ...(headers === undefined ? {} : { headers }),
      ...(mirrors === undefined ? {} : { mirrors }),
      ...(tokenHosts === undefined ? {} : { tokenHosts }),
    }
  }

  defaults(value: unknown): HostSettings {
    return this.#access(this.object(value, "default", ["plainHttp", "ca", "proxy"]))
  }

  #access(fields: Fields): Pick<HostSettings, "plainHttp" | "ca" | "proxy"> {
    const plainHttp = boolean(fields, "plainHttp")
    const ca = this.#pem(fields, "ca")
    const proxy = fields.raw("proxy") === false ? false : fields.string("proxy")
    if (typeof proxy === "string") parseProxy(proxy, `${this.#path}: proxy`)
    return {
      ...(plainHttp === undefined ? {} : { plainHttp }),
      ...(ca === undefined ? {} : { ca }),
      ...(proxy === undefined ? {} : { proxy }),
    }
  }

  #certificate(fields: Fields): ClientCertificate | undefined {
    const [cert, key] = [this.#pem(fields, "cert"), this.#pem(fields, "key")]
    if (cert === undefined && key === undefined) return undefined
    if (cert === undefined) throw fields.bad("cert", "is missing: it goes with key")
    if (key === undefined) throw fields.bad("key", "is missing: it goes with cert")
    if (!isPair(cert, key)) throw fields.bad("key", "is not the key of cert, both PEM and without a password")
    return { cert, key }
  }

  #pem(fields: Fields, name: string): string | undefined {
    const file = fields.string(name)
    return file === undefined ? undefined : readPem(resolve(dirname(this.#path), file))
  }

  #mirror(text: unknown, where: string): Mirror {
    const value = typeof text === "string" ? { url: text } : text
    const fields = this.object(value, `hosts.${where}`, ["url", "pullByDigestOnly"])
    const url = fields.string("url") ?? ""
    if (!ORIGIN.test(url) || !URL.canParse(url)) throw fields.bad("url", "is no https://HOST[:PORT]")
    const pullByDigestOnly = boolean(fields, "pullByDigestOnly")
    return { url, ...(pullByDigestOnly === undefined ? {} : { pullByDigestOnly }) }
  }

  #headers(fields: Fields): Record<string, string> | undefined {
    const headers = fields.stringMap("headers", HEADERS_MAX, 4096)
    for (const [name, value] of Object.entries(headers ?? {})) {
      if (!HEADER_NAME.test(name) || !HEADER_VALUE.test(value))
        throw fields.bad("headers", `has ${printable(name)}, which is no header`)
      if (OWN_HEADERS.has(name.toLowerCase()))
        throw fields.bad("headers", `has ${name}, which is set by the client itself`)
    }
    return headers
  }
}

function isPair(cert: string, key: string): boolean {
  try {
    return new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))
  } catch {
    return false
  }
}

function boolean(fields: Fields, key: string): boolean | undefined {
  const value = fields.raw(key)
  if (value === undefined || typeof value === "boolean") return value
  throw fields.bad(key, "is not true or false")
}

function objectOf(path: string, where: string, value: unknown): object {
  if (isObject(value)) return value
  throw configError(path, `${where} is not an object`)
}

function readPem(path: string): string {
  const text = readIfThere(path)?.toString("latin1")
  if (text === undefined) throw configError(path, "is not there")
  return text
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
