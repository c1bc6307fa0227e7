import { closeSync, constants, fstatSync, openSync, readdirSync, readSync } from "node:fs"
import { join } from "node:path"
import { CniError } from "./errors.js"
import { type JsonObject, Reader, shown } from "./json.js"
import { isName, isPluginName } from "./names.js"
import { type CniVersion, isVersion } from "./versions.js"

/** One plugin of a list, with its own configuration as it stands there. */
export interface CniPlugin {
  /** The name of its program. */
  readonly type: string
  readonly capabilities: ReadonlySet<string>
  readonly configuration: JsonObject
}

/** A network: plugins that work on one interface, one after the other. */
export interface CniNetwork {
  readonly name: string
  readonly cniVersion: CniVersion
  /** CHECK is not to be used, for the network's own reasons. */
  readonly disableCheck: boolean
  readonly plugins: readonly CniPlugin[]
}

/** Where networks are described by default. */
export const DEFAULT_CONF_DIR = "/etc/cni/net.d"

const MAX_CONFIGURATION_BYTES = 2 ** 20
const MAX_PLUGINS = 32
const MAX_FILES = 1024

/**
 * Reads a network's description: a list of plugins, or one plugin's configuration (before 1.0.0), which is a list of one.
 *
 * @param text - JSON, at most 1 MiB, nested at most 64 deep
 * @throws CniError `config-invalid`, naming the field
 * @see CNI 1.0.0, section 1 "Network configuration format"
 *
 * @example
 * ```ts
 * import { parseNetwork } from "@ts-vmm/cni"
 *
 * const network = parseNetwork(
 *   JSON.stringify({ cniVersion: "1.0.0", name: "lan", plugins: [{ type: "bridge", ipam: { type: "host-local" } }] }),
 * )
 * console.log(network.plugins.map(({ type }) => type))
 * ```
 */
export function parseNetwork(text: string, what = "network configuration"): CniNetwork {
  const reader = new Reader("config-invalid", what)
  if (Buffer.byteLength(text) > MAX_CONFIGURATION_BYTES)
    throw reader.error(`larger than ${MAX_CONFIGURATION_BYTES} bytes`)
  return readNetwork(reader.parse(text), reader)
}

/** @throws CniError of the reader */
export function readNetwork(raw: JsonObject, reader: Reader): CniNetwork {
  const { name, cniVersion = "0.1.0", disableCheck = false } = raw
  if (!isName(name)) throw reader.error(`name is ${shown(name)}`)
  if (!isVersion(cniVersion)) throw reader.error(`cniVersion is ${shown(cniVersion)}`)
  if (typeof disableCheck !== "boolean") throw reader.error("disableCheck is neither true nor false")
  const plugins =
    raw["plugins"] === undefined
      ? [readPlugin(raw, "it", reader)]
      : reader
          .objects(raw["plugins"], "plugins", MAX_PLUGINS)
          .map((one, index) => readPlugin(one, `plugins[${index}]`, reader))
  if (plugins.length === 0) throw reader.error("plugins has no entry")
  return { name, cniVersion, disableCheck, plugins }
}

/** The list as text, for a record. */
export function formatNetwork({ plugins, ...network }: CniNetwork): JsonObject {
  return { ...network, plugins: plugins.map(({ configuration }) => configuration) }
}

/**
 * Finds a network by its name. Names are compared with what files say, and never become a path.
 *
 * @param confDir - folder of `*.conflist`, `*.conf` and `*.json`, read in the order of their names; the first one wins
 * @throws CniError `invalid-argument`, `config-missing`, and `config-invalid` when a file that may have been meant cannot be read
 *
 * @example
 * ```ts
 * import { CniError, loadNetwork } from "@ts-vmm/cni"
 *
 * try {
 *   console.log(loadNetwork("lan").plugins.length)
 * } catch (error) {
 *   if ((error as CniError).code === "config-missing") console.error("there is no network of this name")
 * }
 * ```
 */
export function loadNetwork(name: string, confDir = DEFAULT_CONF_DIR): CniNetwork {
  if (!isName(name)) throw new CniError("invalid-argument", `the name of a network is ${shown(name)}`)
  let broken: unknown
  for (const file of configurationFiles(confDir)) {
    try {
      const network = parseNetwork(readBounded(join(confDir, file)), join(confDir, file))
      if (network.name === name) return network
    } catch (error) {
      broken ??= error // of another network, perhaps: it must not be in this one's way
    }
  }
  if (broken) throw broken
  throw new CniError("config-missing", `no network in ${confDir} is called ${name}`)
}

function configurationFiles(confDir: string): string[] {
  try {
    return readdirSync(confDir)
      .filter(file => /\.(conflist|conf|json)$/.test(file))
      .sort()
      .slice(0, MAX_FILES)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return []
    throw new CniError("config-invalid", `${confDir} cannot be read`, { cause: error })
  }
}

/** Non-blocking: a pipe with a file's name must not hold us. */
function readBounded(path: string): string {
  const fd = openConfiguration(path)
  try {
    const { size } = fstatSync(fd)
    if (!fstatSync(fd).isFile() || size > MAX_CONFIGURATION_BYTES)
      throw new CniError("config-invalid", `${path} is no file of at most ${MAX_CONFIGURATION_BYTES} bytes`)
    const bytes = Buffer.alloc(size)
    return bytes.subarray(0, readSync(fd, bytes, 0, size, 0)).toString()
  } finally {
    closeSync(fd)
  }
}

function openConfiguration(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    throw new CniError("config-invalid", `${path} cannot be read`, { cause: error })
  }
}

function readPlugin(raw: JsonObject, where: string, reader: Reader): CniPlugin {
  const type = raw["type"]
  if (!isPluginName(type)) throw reader.error(`${where}.type is ${shown(type)}`)
  // A plugin runs another one by these names, out of the same folders.
  for (const key of ["ipam", "delegate"]) checkDelegate(raw[key], `${where}.${key}`, reader)
  const capabilities = raw["capabilities"] ?? {}
  const declared = Object.entries(reader.object(capabilities, `${where}.capabilities`))
  return {
    type,
    capabilities: new Set(declared.filter(([, value]) => value === true).map(([key]) => key)),
    configuration: raw,
  }
}

function checkDelegate(value: unknown, where: string, reader: Reader): void {
  if (value === undefined || value === null) return
  const type = reader.object(value, where)["type"]
  if (type !== undefined && type !== "" && !isPluginName(type))
    throw reader.error(`${where}.type is ${shown(type)}`)
}
