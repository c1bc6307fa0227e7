import {
  closeSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import type { CniAttachment } from "./attachment.js"
import { checkAttachment } from "./attachment.js"
import { type CniNetwork, formatNetwork, readNetwork } from "./configuration.js"
import { CniError } from "./errors.js"
import { type JsonObject, Reader } from "./json.js"
import { isFolder, isInterfaceName, isName } from "./names.js"

/** All that DEL needs, whatever has become of the configuration and the owner meanwhile. */
export interface CniRecord {
  readonly network: CniNetwork
  readonly attachment: CniAttachment
  readonly pluginDirs: readonly string[]
  /** Of the last plugin, as it wrote it; undefined until ADD has succeeded. */
  readonly result: JsonObject | undefined
}

/** Two results and a configuration, with room. */
const MAX_RECORD_BYTES = 8 * 2 ** 20
let temporaries = 0

/**
 * Records in a folder, one file an interface.
 *
 * ```
 *  begin -> [ADD ...] -> update(result)         the file is there before the first plugin runs
 *                 '--------------------------> remove, once every DEL has succeeded
 * ```
 */
export class Records {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  /** @throws CniError `already-added` when there is one; `invalid-argument` for a folder that is not ours alone */
  begin(record: CniRecord): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 })
    this.#checkFolder()
    const temporary = this.#write(record)
    try {
      linkSync(temporary, this.#path(record.attachment)) // unlike renaming, it does not replace
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error
      const { containerId, ifName } = record.attachment
      throw new CniError("already-added", `${ifName} of ${containerId} was added before`)
    } finally {
      rmSync(temporary, { force: true })
    }
  }

  update(record: CniRecord): void {
    renameSync(this.#write(record), this.#path(record.attachment))
  }

  /** Undefined when there is none. @throws CniError `record-invalid` */
  read(id: Pick<CniAttachment, "containerId" | "ifName">): CniRecord | undefined {
    const path = this.#path(id)
    const size = statSync(path, { throwIfNoEntry: false })?.size
    if (size === undefined) return undefined
    if (size > MAX_RECORD_BYTES)
      throw new CniError("record-invalid", `${path} is larger than ${MAX_RECORD_BYTES} bytes`)
    return parseRecord(readFileSync(path, "utf8"), path)
  }

  remove(id: Pick<CniAttachment, "containerId" | "ifName">): void {
    rmSync(this.#path(id), { force: true })
  }

  /** What has a record. */
  list(): Pick<CniAttachment, "containerId" | "ifName">[] {
    return listFiles(this.#folder).flatMap(file => {
      const [, containerId, ifName] = /^([^@]+)@([^@]+)\.json$/.exec(file) ?? []
      return isName(containerId) && isInterfaceName(ifName) ? [{ containerId, ifName }] : []
    })
  }

  #write(record: CniRecord): string {
    const path = join(this.#folder, `.${process.pid}-${temporaries++}.tmp`)
    const fd = openSync(path, "wx", 0o600)
    try {
      writeFileSync(fd, formatRecord(record))
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    return path
  }

  #checkFolder(): void {
    const stat = lstatSync(this.#folder)
    if (stat.isDirectory() && stat.uid === process.getuid?.() && (stat.mode & 0o077) === 0) return
    throw new CniError("invalid-argument", `${this.#folder} is no folder of ours alone (mode 0700)`)
  }

  #path({ containerId, ifName }: Pick<CniAttachment, "containerId" | "ifName">): string {
    if (!isName(containerId) || !isInterfaceName(ifName))
      throw new CniError("invalid-argument", "no container id and interface name")
    return join(this.#folder, `${containerId}@${ifName}.json`)
  }
}

function formatRecord({ network, attachment, pluginDirs, result }: CniRecord): string {
  return JSON.stringify({ version: 1, network: formatNetwork(network), attachment, pluginDirs, result })
}

/** Ours, but it may be half of what it was, or of another version. */
function parseRecord(text: string, path: string): CniRecord {
  const reader = new Reader("record-invalid", path)
  const raw = reader.parse(text)
  if (raw["version"] !== 1) throw reader.error("not of version 1")
  const pluginDirs = reader.list(raw["pluginDirs"], "pluginDirs", 64)
  if (!pluginDirs.every(isFolder)) throw reader.error("pluginDirs has what is no folder")
  const attachment = reader.object(raw["attachment"], "attachment") as unknown as CniAttachment
  checkAttachment(attachment, why => reader.error(why))
  return {
    network: readNetwork(reader.object(raw["network"], "network"), reader),
    attachment,
    pluginDirs,
    result: raw["result"] === undefined ? undefined : reader.object(raw["result"], "result"),
  }
}

function listFiles(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return []
    throw error
  }
}
