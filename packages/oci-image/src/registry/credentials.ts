import { spawn } from "node:child_process"
import { readFile } from "node:fs/promises"
import { homedir } from "node:os"
import { join } from "node:path"
import { ImageError, ioError, printable } from "../errors.js"
import { Fields, isObject, parseJsonObject } from "../spec/json.js"

/** Who one is to a registry. Never part of a message. */
export interface Credentials {
  readonly username: string
  readonly password: string
}

/** Finds credentials for a registry (`HOST[:PORT]`); undefined when there are none. */
export type CredentialSource = (registry: string) => Promise<Credentials | undefined>

const DOCUMENT_MAX = 4 * 1024 * 1024
const HELPER_OUTPUT_MAX = 64 * 1024
const HELPER_TIMEOUT_MS = 30_000
/** A helper is a program on the PATH and nothing else. */
const HELPER_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/
/** Under which key docker keeps what it knows of docker.io. */
const DOCKER_HUB_KEY = "https://index.docker.io/v1/"

/** The file in which docker keeps credentials. */
export function dockerConfigFile(environment: NodeJS.ProcessEnv = process.env): string {
  return join(environment["DOCKER_CONFIG"] ?? join(homedir(), ".docker"), "config.json")
}

/**
 * Credentials as docker keeps them: `credHelpers`, `credsStore` (programs `docker-credential-NAME`), then `auths`.
 *
 * @param path - default {@link dockerConfigFile}
 * @throws the source does: ImageError `registry-config` for a file or helper that cannot be used, `io`
 */
export function dockerCredentials(path = dockerConfigFile()): CredentialSource {
  return async registry => {
    const fields = await readConfig(path)
    if (!fields) return undefined
    const key = registry === "docker.io" ? DOCKER_HUB_KEY : registry
    const helper = helperFor(fields, key)
    if (helper !== undefined) return askHelper(helper, key)
    const auths = fields.raw("auths")
    const entry = isObject(auths) ? auths[key] : undefined
    return entry === undefined ? undefined : readAuth(new Fields(entry, `auths of ${key}`, "registry-config"))
  }
}

async function readConfig(path: string): Promise<Fields | undefined> {
  const bytes = await readFile(path).catch(error => {
    if (error.code === "ENOENT") return undefined
    throw ioError(error, "cannot read docker's config.json")
  })
  if (!bytes) return undefined
  if (bytes.length > DOCUMENT_MAX) throw configError(`${path} is larger than ${DOCUMENT_MAX} bytes`)
  return new Fields(parseJsonObject(bytes, path), path, "registry-config")
}

function helperFor(fields: Fields, key: string): string | undefined {
  return fields.stringMap("credHelpers")?.[key] ?? fields.string("credsStore")
}

function readAuth(entry: Fields): Credentials | undefined {
  const encoded = entry.string("auth", 65_536)
  if (encoded === undefined || encoded === "") return undefined
  const text = Buffer.from(encoded, "base64").toString()
  const colon = text.indexOf(":")
  if (colon < 1) throw entry.bad("auth", "is not USER:PASSWORD in base64")
  return { username: text.slice(0, colon), password: text.slice(colon + 1) }
}

/** @see docker/docker-credential-helpers: the server on stdin, JSON on stdout, exit code 1 for "none" */
async function askHelper(name: string, server: string): Promise<Credentials | undefined> {
  if (!HELPER_NAME.test(name)) throw configError(`${printable(name)} is no name of a credential helper`)
  const { code, output } = await runHelper(`docker-credential-${name}`, server)
  if (code !== 0) {
    if (/credentials not found/i.test(output)) return undefined
    throw configError(`docker-credential-${name} get failed with code ${code}`)
  }
  const fields = new Fields(
    parseJsonObject(Buffer.from(output), `the answer of docker-credential-${name}`),
    `the answer of docker-credential-${name}`,
    "registry-config",
  )
  return { username: fields.string("Username") ?? "", password: fields.string("Secret", 65_536) ?? "" }
}

function runHelper(program: string, input: string): Promise<{ code: number | null; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, ["get"], { stdio: ["pipe", "pipe", "ignore"], timeout: HELPER_TIMEOUT_MS })
    let output = ""
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk.toString()
      if (output.length > HELPER_OUTPUT_MAX) child.kill("SIGKILL")
    })
    child.on("error", cause => reject(configError(`cannot run ${program}: is it on the PATH?`, cause)))
    child.on("close", code => resolve({ code, output: output.slice(0, HELPER_OUTPUT_MAX) }))
    child.stdin.on("error", () => undefined) // one that does not read is told by its exit code
    child.stdin.end(input)
  })
}

function configError(message: string, cause?: unknown): ImageError {
  return new ImageError("registry-config", message, {}, cause === undefined ? {} : { cause })
}
