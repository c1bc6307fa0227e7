import { mkdir, open, readFile, realpath, rename, rm } from "node:fs/promises"
import { homedir } from "node:os"
import { basename, dirname, join } from "node:path"
import { ImageError, ioError } from "../errors.js"
import { Fields, isObject, type JsonObject, parseJsonObject } from "../spec/json.js"
import { Leases } from "../store/leases.js"
import { removeStale } from "../store/owner.js"

const DOCUMENT_MAX = 4 * 1024 * 1024
/** Under which key docker keeps what it knows of docker.io. */
const DOCKER_HUB_KEY = "https://index.docker.io/v1/"
const AUTHS_MAX = 10_000

/** The file in which docker keeps credentials: `config.json` in `DOCKER_CONFIG`, or in `~/.docker`. */
export function dockerConfigFile(environment: NodeJS.ProcessEnv = process.env): string {
  return join(environment["DOCKER_CONFIG"] || join(homedir(), ".docker"), "config.json")
}

/** Under which key docker keeps what belongs to a registry. */
export function configKey(registry: string): string {
  return registry === "docker.io" ? DOCKER_HUB_KEY : registry
}

/** What docker's `config.json` says about credentials; all else in it is kept as it is. */
export class DockerConfig {
  readonly #path: string
  readonly #json: JsonObject

  private constructor(path: string, json: JsonObject) {
    this.#path = path
    this.#json = json
  }

  /**
   * Reads the file; one that is not there is empty.
   *
   * @throws ImageError `registry-config`, `json-invalid`, `io`
   */
  static async read(path: string): Promise<DockerConfig> {
    const bytes = await readFile(path).catch(error => {
      if (error.code === "ENOENT") return undefined
      throw ioError(error, "cannot read docker's config.json")
    })
    if (!bytes) return new DockerConfig(path, {})
    if (bytes.length > DOCUMENT_MAX)
      throw new ImageError("registry-config", `${path} is larger than ${DOCUMENT_MAX} bytes`, { path })
    return new DockerConfig(path, parseJsonObject(bytes, path))
  }

  /** The helper that keeps a registry's credentials. */
  helper(registry: string): string | undefined {
    const fields = new Fields(this.#json, this.#path, "registry-config")
    const helpers = fields.stringMap("credHelpers", AUTHS_MAX) ?? {}
    const own = [configKey(registry), registry].find(key => Object.hasOwn(helpers, key))
    return (own === undefined ? undefined : helpers[own]) || fields.string("credsStore") || undefined
  }

  /** The entry of `auths`, by docker's key or by one that older versions wrote: `https://HOST/v1/`. */
  entry(registry: string): Fields | undefined {
    const auths = this.#auths()
    const wanted = configKey(registry)
    const key = Object.hasOwn(auths, wanted)
      ? wanted
      : Object.keys(auths)
          .slice(0, AUTHS_MAX)
          .find(one => hostOf(one) === hostOf(wanted))
    return key === undefined ? undefined : new Fields(auths[key], `auths of ${registry}`, "registry-config")
  }

  /**
   * Writes the file with another entry for a registry, or without one. Whoever reads it meanwhile sees the old one or
   * the new one; nobody else may read it. Of two that write at once, the second begins with what the first wrote;
   * docker itself waits for nobody.
   *
   * @throws ImageError `registry-config`, `json-invalid`, `io`
   */
  static async update(path: string, registry: string, entry: JsonObject | undefined): Promise<void> {
    try {
      await mkdir(dirname(path), { recursive: true, mode: 0o700 })
      const file = await realpath(path).catch(() => path)
      const lock = await lockFile(file)
      try {
        const config = await DockerConfig.read(file)
        await replaceFile(file, config.#with(registry, entry))
      } finally {
        await lock[Symbol.asyncDispose]()
      }
    } catch (error) {
      throw ioError(error, "cannot write docker's config.json")
    }
  }

  #with(registry: string, entry: JsonObject | undefined): string {
    const key = configKey(registry)
    const others = Object.entries(this.#auths()).filter(([one]) => hostOf(one) !== hostOf(key))
    const auths = Object.fromEntries(entry ? [...others, [key, entry]] : others)
    return `${JSON.stringify({ ...this.#json, auths }, undefined, "\t")}\n`
  }

  #auths(): JsonObject {
    const auths = Object.hasOwn(this.#json, "auths") ? this.#json["auths"] : undefined
    return isObject(auths) ? auths : {}
  }
}

/** Nobody else that asks has it until it is disposed of. What killed processes left beside the file goes. */
async function lockFile(path: string): Promise<AsyncDisposable> {
  const [folder, name] = [dirname(path), basename(path)]
  for (const kind of ["queue", "work"]) await removeStale(folder, `${kind}-${name}-`)
  const lock = await new Leases(folder).claim(name, async () => false)
  return lock as AsyncDisposable // it is never done
}

async function replaceFile(path: string, text: string): Promise<void> {
  const temporary = `${path}.${process.pid}-${Math.random().toString(36).slice(2)}`
  try {
    const file = await open(temporary, "wx", 0o600)
    try {
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

/** `https://HOST/v1/` and `HOST` are one to docker. */
function hostOf(key: string): string {
  return key.replace(/^https?:\/\//, "").replace(/\/.*$/s, "")
}
