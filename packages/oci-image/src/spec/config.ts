import { type Digest, parseDigest } from "../digest.js"
import { ImageError } from "../errors.js"
import { Fields, type JsonObject } from "./json.js"
import { type Platform, readPlatform } from "./platform.js"

/** How to run an image, as its maker wished. Absent text reads as "", absent lists as []. @see OCI image spec 1.1, config.md */
export interface ImageConfig {
  readonly platform: Platform
  /** `NAME=value` each. */
  readonly env: readonly string[]
  readonly entrypoint: readonly string[]
  readonly cmd: readonly string[]
  /** Absolute, or "" for the root. */
  readonly workingDir: string
  /** `user[:group]`, names or numbers, or "" for root. Names are looked up inside the image, by the guest. */
  readonly user: string
  /** `SIGTERM`, `15` or "". */
  readonly stopSignal: string
  /** `80/tcp` each. */
  readonly exposedPorts: readonly string[]
  readonly volumes: readonly string[]
  readonly labels: Readonly<Record<string, string>>
}

/** The config document: what runs, and the digests of the layers' tar streams. */
export interface ConfigDocument {
  readonly config: ImageConfig
  /** Digest of each layer after decompression, lowest first. */
  readonly diffIds: readonly Digest[]
}

/**
 * Reads an image configuration.
 *
 * @throws ImageError `config-invalid` with `field`, `digest-invalid`
 */
export function readConfig(json: JsonObject): ConfigDocument {
  const fields = new Fields(json, "image config", "config-invalid")
  const rootfs = new Fields(fields.raw("rootfs"), "image config rootfs", "config-invalid")
  if (rootfs.raw("type") !== "layers") throw rootfs.bad("type", 'is not "layers"')
  const diffIds = (rootfs.array("diff_ids", 4096) ?? []).map(parseDigest)
  return { config: readRunConfig(fields), diffIds }
}

function readRunConfig(fields: Fields): ImageConfig {
  const run = new Fields(fields.raw("config") ?? {}, "image config", "config-invalid")
  const config: ImageConfig = {
    platform: readPlatform(fields),
    env: run.strings("Env") ?? [],
    entrypoint: run.strings("Entrypoint") ?? [],
    cmd: run.strings("Cmd") ?? [],
    workingDir: run.string("WorkingDir") ?? "",
    user: run.string("User", 256) ?? "",
    stopSignal: run.string("StopSignal", 64) ?? "",
    exposedPorts: run.keySet("ExposedPorts") ?? [],
    volumes: run.keySet("Volumes") ?? [],
    labels: run.stringMap("Labels") ?? {},
  }
  checkRunConfig(config)
  return config
}

const STOP_SIGNAL = /^(SIG)?[A-Z0-9+-]{1,16}$/
const PORT = /^\d{1,5}(-\d{1,5})?(\/(tcp|udp|sctp))?$/

function checkRunConfig(config: ImageConfig): void {
  const bad = (field: string, why: string) =>
    new ImageError("config-invalid", `image config: ${field} ${why}`, { field })
  if (config.env.some(e => e.indexOf("=") < 1)) throw bad("Env", "has an entry that is not NAME=value")
  if (config.workingDir !== "" && !config.workingDir.startsWith("/"))
    throw bad("WorkingDir", "is not absolute")
  if (config.stopSignal !== "" && !STOP_SIGNAL.test(config.stopSignal))
    throw bad("StopSignal", "is not a signal")
  if (config.exposedPorts.some(p => !PORT.test(p)))
    throw bad("ExposedPorts", "has an entry that is not a port")
}
