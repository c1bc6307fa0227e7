import { type Cidr, familyOf, isAddress, isMac, parseCidr } from "./addresses.js"
import { type JsonObject, Reader, shown } from "./json.js"
import { isInterfaceName } from "./names.js"
import { type CniVersion, isAtLeast, isVersion } from "./versions.js"

/** An interface that plugins made. */
export interface CniInterface {
  readonly name: string
  /** As `02:00:00:00:00:01`. */
  readonly mac: string | undefined
  /** Path of the namespace that it is in; undefined for one of the host's. */
  readonly sandbox: string | undefined
}

/** An address that the container has. */
export interface CniAddress extends Cidr {
  readonly gateway: string | undefined
  /** Index in `interfaces`. */
  readonly interface: number | undefined
}

/** A route that the container has. */
export interface CniRoute {
  readonly destination: Cidr
  readonly gateway: string | undefined
}

/** For /etc/resolv.conf. */
export interface CniDns {
  readonly nameservers: readonly string[]
  readonly domain: string | undefined
  readonly search: readonly string[]
  readonly options: readonly string[]
}

/** What the plugins of a list have made of a network, checked (CNI 1.0.0, section 5, "Success"). */
export interface CniResult {
  readonly cniVersion: CniVersion
  readonly interfaces: readonly CniInterface[]
  readonly ips: readonly CniAddress[]
  readonly routes: readonly CniRoute[]
  readonly dns: CniDns
}

const MAX_INTERFACES = 64
const MAX_ADDRESSES = 64
const MAX_ROUTES = 256
/** Far more than resolv.conf(5) takes. */
const MAX_DNS = 32

const isPath = (text: unknown): text is string => typeof text === "string" && /^\P{Cc}{1,1024}$/u.test(text)
const isDomain = (text: unknown): text is string =>
  typeof text === "string" && /^[a-zA-Z0-9_.-]{1,253}$/.test(text)
const isOption = (text: unknown): text is string =>
  typeof text === "string" && /^[a-zA-Z0-9_.:-]{1,64}$/.test(text)

/** @throws CniError `result-invalid`, naming the field */
export function parseResult(text: string, plugin: string): { raw: JsonObject; result: CniResult } {
  const reader = new Reader("result-invalid", `result of ${plugin}`)
  const raw = reader.parse(text)
  return { raw, result: readResult(raw, reader) }
}

/** @throws CniError of the reader */
export function readResult(raw: JsonObject, reader: Reader): CniResult {
  const cniVersion = raw["cniVersion"] ?? "0.1.0"
  if (!isVersion(cniVersion)) throw reader.error(`cniVersion is ${shown(cniVersion)}`)
  const dns = readDns(raw["dns"], reader)
  if (!isAtLeast(cniVersion, "0.3.0")) return { cniVersion, interfaces: [], dns, ...readOldIps(raw, reader) }
  const interfaces = readInterfaces(raw["interfaces"], reader)
  return {
    cniVersion,
    interfaces,
    ips: reader
      .objects(raw["ips"], "ips", MAX_ADDRESSES)
      .map((one, index) => readIp(one, `ips[${index}]`, interfaces.length, reader)),
    routes: readRoutes(raw["routes"], "routes", reader),
    dns,
  }
}

/** Before 0.3.0 there was one address of each family, with its routes (CNI 0.2.0, "Result"). */
function readOldIps(raw: JsonObject, reader: Reader): Pick<CniResult, "ips" | "routes"> {
  const families = (["ip4", "ip6"] as const).flatMap(key => {
    if (raw[key] === undefined || raw[key] === null) return []
    const one = reader.object(raw[key], key)
    const ip = readIp({ address: one["ip"], gateway: one["gateway"] }, key, 0, reader)
    return [{ ip, routes: readRoutes(one["routes"], `${key}.routes`, reader) }]
  })
  return { ips: families.map(({ ip }) => ip), routes: families.flatMap(({ routes }) => routes) }
}

function readInterfaces(value: unknown, reader: Reader): CniInterface[] {
  return reader.objects(value, "interfaces", MAX_INTERFACES).map((one, index) => {
    const where = `interfaces[${index}]`
    const name = one["name"]
    if (!isInterfaceName(name)) throw reader.error(`${where}.name is ${shown(name)}`)
    return {
      name,
      mac: reader.optional(one["mac"], `${where}.mac`, isMac),
      sandbox: reader.optional(one["sandbox"], `${where}.sandbox`, isPath),
    }
  })
}

function readIp(one: JsonObject, where: string, interfaces: number, reader: Reader): CniAddress {
  const cidr = parseCidr(one["address"])
  if (!cidr || cidr.prefixLength === 0) throw reader.error(`${where}.address is ${shown(one["address"])}`)
  const gateway = reader.optional(one["gateway"], `${where}.gateway`, isAddress)
  if (gateway !== undefined && familyOf(gateway) !== cidr.family)
    throw reader.error(`${where}.gateway is of the other family`)
  return { ...cidr, gateway, interface: readIndex(one["interface"], where, interfaces, reader) }
}

function readIndex(value: unknown, where: string, interfaces: number, reader: Reader): number | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value < interfaces) return value
  throw reader.error(`${where}.interface is none of the ${interfaces} interfaces`)
}

function readRoutes(value: unknown, where: string, reader: Reader): CniRoute[] {
  return reader.objects(value, where, MAX_ROUTES).map((one, index) => {
    const destination = parseCidr(one["dst"])
    if (!destination) throw reader.error(`${where}[${index}].dst is ${shown(one["dst"])}`)
    const gateway = reader.optional(one["gw"], `${where}[${index}].gw`, isAddress)
    if (gateway !== undefined && familyOf(gateway) !== destination.family)
      throw reader.error(`${where}[${index}].gw is of the other family`)
    return { destination, gateway }
  })
}

function readDns(value: unknown, reader: Reader): CniDns {
  const dns = value === undefined || value === null ? {} : reader.object(value, "dns")
  const texts = (key: string, is: (text: unknown) => text is string) =>
    reader.list(dns[key], `dns.${key}`, MAX_DNS).map(one => {
      if (is(one)) return one
      throw reader.error(`dns.${key} has what is ${shown(one)}`)
    })
  return {
    nameservers: texts("nameservers", isAddress),
    domain: reader.optional(dns["domain"], "dns.domain", isDomain),
    search: texts("search", isDomain),
    options: texts("options", isOption),
  }
}
