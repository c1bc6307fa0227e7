import { type CniAttachment, checkAttachment } from "./attachment.js"
import type { CniNetwork, CniPlugin } from "./configuration.js"
import { CniError } from "./errors.js"
import { type CniCommand, findPlugin, invoke, type PluginHost } from "./invoke.js"
import { type JsonObject, Reader } from "./json.js"
import { isFolder } from "./names.js"
import { type CniRecord, Records } from "./records.js"
import { type CniResult, parseResult, readResult } from "./result.js"
import { isAtLeast } from "./versions.js"

/** Options of {@link Cni}. */
export interface CniOptions {
  /** Where records lie: a folder of ours alone (0700), made when it is not there. */
  readonly stateDir: string
  /** Where plugins are looked for, in this order. Default: {@link DEFAULT_PLUGIN_DIRS}. */
  readonly pluginDirs?: readonly string[]
  /** How long one run of one plugin may take, in milliseconds, 1 to 2^31 - 1. Default 30,000. */
  readonly timeoutMs?: number
  /** How much a plugin may write to stdout. Default 1 MiB. */
  readonly maxOutputBytes?: number
  /**
   * A program that is run as `LAUNCHER -- PLUGIN` and ends with all that the plugin started when its fd 3, a pipe, reaches
   * its end: then no plugin outlives this process, even if that is killed. `launcherPath()` of `@ts-vmm/native` is one.
   * Default: none; plugins get a process group of their own, which is killed when their time is over.
   */
  readonly launcher?: string
}

/** Options of an operation. */
export interface CniCallOptions {
  /** Kills the plugin that runs. */
  readonly signal?: AbortSignal
}

/** What identifies an interface that was added. */
export type CniAttachmentId = Pick<CniAttachment, "containerId" | "ifName">

/** Where the reference plugins are installed, by themselves and by Debian. */
export const DEFAULT_PLUGIN_DIRS: readonly string[] = ["/opt/cni/bin", "/usr/lib/cni"]

const DEFAULT_TIMEOUT_MS = 30_000
const DEFAULT_OUTPUT_BYTES = 2 ** 20
/** A plugin's code for a version that it does not speak (CNI 1.0.0, section 5, "Error"). */
const INCOMPATIBLE_VERSION = 1

/**
 * Runs the plugins of networks, and remembers for which containers: what was added, or may have been, can be deleted by
 * whoever has the state folder.
 *
 * ```
 *  add:  record -> ADD of each plugin -> result            a failure: DEL of each, in reverse order
 *  del:  DEL of each plugin, in reverse order -> record removed        a failure: the record stays
 * ```
 *
 * Operations on one interface are done one after the other; those of several processes are not kept apart.
 *
 * @see CNI 1.0.0, section 3 "Execution of Network Configurations"
 *
 * @example
 * ```ts
 * import { Cni, loadNetwork } from "@ts-vmm/cni"
 *
 * const cni = new Cni({ stateDir: "/run/my-runtime/cni" })
 * const attachment = { containerId: "web", ifName: "eth0", netns: "/run/netns/web" }
 * const { ips } = await cni.add(loadNetwork("lan"), attachment)
 * console.log(ips.map(({ address }) => address))
 * await cni.del(attachment)
 * ```
 */
export class Cni {
  readonly #host: PluginHost
  readonly #records: Records
  readonly #turns = new Map<string, Promise<unknown>>()

  /** @throws CniError `invalid-argument` */
  constructor(options: CniOptions) {
    const { stateDir, pluginDirs = DEFAULT_PLUGIN_DIRS, timeoutMs = DEFAULT_TIMEOUT_MS } = options
    const { maxOutputBytes = DEFAULT_OUTPUT_BYTES, launcher } = options
    if (!isFolder(stateDir) || pluginDirs.length === 0 || !pluginDirs.every(isFolder))
      throw new CniError("invalid-argument", "stateDir and pluginDirs are absolute paths without a colon")
    if (!(timeoutMs >= 1 && timeoutMs < 2 ** 31 && maxOutputBytes >= 1))
      throw new CniError("invalid-argument", "timeoutMs and maxOutputBytes are larger than 0")
    this.#host = { pluginDirs, timeoutMs, maxOutputBytes, launcher }
    this.#records = new Records(stateDir)
  }

  /**
   * Adds a container to a network. Where that fails DEL is run for the whole list; the error is ADD's, and its `cleanUp`
   * says so when DEL failed as well and the record was kept.
   *
   * @throws CniError `invalid-argument`, `already-added`, `plugin-…`, `result-invalid`, `aborted`
   * @see CNI 1.0.0, section 2 "ADD"
   */
  add(network: CniNetwork, attachment: CniAttachment, options: CniCallOptions = {}): Promise<CniResult> {
    return this.#inTurn(attachment, async () => {
      checkAttachment(attachment)
      // What is not installed is no reason to begin.
      for (const { type } of network.plugins) findPlugin(type, this.#host.pluginDirs)
      const record = { network, attachment, pluginDirs: this.#host.pluginDirs, result: undefined }
      this.#records.begin(record)
      try {
        return await this.#addAll(record, options.signal)
      } catch (error) {
        throw await this.#afterFailure(record, error as CniError)
      }
    })
  }

  /**
   * Asks the plugins whether all is as ADD left it.
   *
   * @throws CniError `not-added`, `unsupported` before version 0.4.0; `plugin-…` with what is wrong
   * @see CNI 1.0.0, section 2 "CHECK"
   */
  check(id: CniAttachmentId, options: CniCallOptions = {}): Promise<void> {
    return this.#inTurn(id, async () => {
      const record = this.#records.read(id)
      if (!record?.result) throw new CniError("not-added", `${id.ifName} of ${id.containerId} was not added`)
      if (!isAtLeast(record.network.cniVersion, "0.4.0"))
        throw new CniError("unsupported", `${record.network.cniVersion} has no CHECK`)
      if (record.network.disableCheck) return
      for (const plugin of record.network.plugins)
        await this.#call("CHECK", plugin, record, record.result, options.signal)
    })
  }

  /**
   * Takes a container off its network: of every plugin, also after one has failed. Without a record there is nothing to do.
   *
   * @throws CniError `delete-failed`: the record is kept, and DEL can be tried again; `record-invalid`
   * @see CNI 1.0.0, section 2 "DEL"
   */
  del(id: CniAttachmentId): Promise<void> {
    return this.#inTurn(id, async () => {
      const record = this.#records.read(id)
      if (record) await this.#deleteAll(record)
    })
  }

  /** What was added, or may have been, and is not deleted. */
  attachments(): CniAttachmentId[] {
    return this.#records.list()
  }

  /** What ADD gave. @throws CniError `not-added`, `record-invalid` */
  result(id: CniAttachmentId): CniResult {
    const raw = this.#records.read(id)?.result
    if (!raw) throw new CniError("not-added", `${id.ifName} of ${id.containerId} was not added`)
    return readResult(raw, new Reader("record-invalid", "result"))
  }

  /**
   * Versions of the specification that a plugin speaks.
   *
   * @throws CniError `invalid-argument`, `plugin-…`, `result-invalid`
   * @see CNI 1.0.0, section 2 "VERSION"
   */
  async versions(type: string, options: CniCallOptions = {}): Promise<string[]> {
    const configuration = { cniVersion: "1.0.0" }
    // Some plugins of before 0.4.0 want these whatever they are asked.
    const env = { CNI_CONTAINERID: "dummy", CNI_NETNS: "dummy", CNI_IFNAME: "dummy" }
    const call = { command: "VERSION", type, configuration, env, signal: options.signal } as const
    const reader = new Reader("result-invalid", `versions of ${type}`)
    const said = reader.parse(await invoke(this.#host, call))
    return reader.list(said["supportedVersions"], "supportedVersions", 64).map(one => {
      if (typeof one === "string" && /^[\w.+-]{1,32}$/.test(one)) return one
      throw reader.error("supportedVersions has what is no version")
    })
  }

  async #addAll(record: CniRecord, signal: AbortSignal | undefined): Promise<CniResult> {
    let last: { raw: JsonObject; result: CniResult } | undefined
    for (const plugin of record.network.plugins) {
      const text = await this.#call("ADD", plugin, record, last?.raw, signal)
      last = parseResult(text, plugin.type)
    }
    if (!last) throw new CniError("config-invalid", `${record.network.name} has no plugins`)
    this.#records.update({ ...record, result: last.raw })
    return last.result
  }

  async #afterFailure(record: CniRecord, error: CniError): Promise<Error> {
    try {
      await this.#deleteAll(record)
      return error
    } catch (cleanUp) {
      const { code = "plugin-failed", message, plugin, pluginCode, details } = error
      return new CniError(code, `${message}; and ${(cleanUp as CniError).message}`, {
        cause: error,
        cleanUp: cleanUp as CniError,
        ...(plugin === undefined ? {} : { plugin }),
        ...(pluginCode === undefined ? {} : { pluginCode }),
        ...(details === undefined ? {} : { details }),
      })
    }
  }

  /** Each gets its chance, since what it holds is its own: an address, a rule, an interface. */
  async #deleteAll(record: CniRecord): Promise<void> {
    const failures: CniError[] = []
    for (const plugin of record.network.plugins.toReversed())
      await this.#call("DEL", plugin, record, record.result).catch((error: CniError) => {
        // Its ADD has failed for the same reason, and will not succeed: there is nothing of it to delete.
        const neverSpoke = !record.result && error.pluginCode === INCOMPATIBLE_VERSION
        if (!neverSpoke) failures.push(error)
      })
    const { containerId, ifName } = record.attachment
    if (failures.length === 0) return this.#records.remove(record.attachment)
    throw new CniError(
      "delete-failed",
      `DEL of ${ifName} of ${containerId} failed, its record is kept: ${failures.map(one => one.message).join("; ")}`,
      { cause: failures[0] },
    )
  }

  /** What a plugin did not find missing when it was added may be missing now: folders are those of then. */
  #call(
    command: CniCommand,
    plugin: CniPlugin,
    { network, attachment, pluginDirs }: CniRecord,
    prevResult: JsonObject | undefined,
    signal?: AbortSignal,
  ): Promise<string> {
    const { containerId, netns, ifName, args = {} } = attachment
    const { capabilities: _, ...own } = plugin.configuration
    const runtimeConfig = capabilityArgs(plugin, attachment)
    // DEL has it since 0.4.0.
    const hasResult = prevResult && (command === "ADD" || isAtLeast(network.cniVersion, "0.4.0"))
    const configuration = {
      ...own,
      name: network.name,
      cniVersion: network.cniVersion,
      ...(runtimeConfig ? { runtimeConfig } : {}),
      ...(hasResult ? { prevResult } : {}),
    }
    const CNI_ARGS = Object.entries(args)
      .map(([key, value]) => `${key}=${value}`)
      .join(";")
    const env = { CNI_CONTAINERID: containerId, CNI_NETNS: netns, CNI_IFNAME: ifName, CNI_ARGS }
    return invoke({ ...this.#host, pluginDirs }, { command, type: plugin.type, configuration, env, signal })
  }

  /** One after the other, whatever became of the one before. */
  #inTurn<T>({ containerId, ifName }: CniAttachmentId, work: () => Promise<T>): Promise<T> {
    const key = `${containerId}@${ifName}`
    const turn = (this.#turns.get(key) ?? Promise.resolve()).then(work, work)
    this.#turns.set(key, turn)
    const forget = () => {
      if (this.#turns.get(key) === turn) this.#turns.delete(key)
    }
    turn.then(forget, forget)
    return turn
  }
}

/** What of the container's arguments the plugin declares that it takes (CNI 1.0.0, section 3). */
function capabilityArgs(
  { capabilities }: CniPlugin,
  { capabilityArgs = {} }: CniAttachment,
): JsonObject | undefined {
  const wanted = Object.entries(capabilityArgs).filter(([key]) => capabilities.has(key))
  return wanted.length > 0 ? Object.fromEntries(wanted) : undefined
}
