import { ImageError } from "../errors.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import { configKey, DockerConfig, dockerConfigFile } from "./docker-config.js"

/** Who one is to a registry. Never part of a message. */
export interface Credentials {
  readonly username: string
  readonly password: string
  /** A refresh token, which the registry's token server takes instead of a password. */
  readonly identityToken?: string
}

/** Finds credentials for a registry (`HOST[:PORT]`); undefined when there are none. */
export type CredentialSource = (registry: string) => Promise<Credentials | undefined>

/** The user name by which a helper says that the secret is an identity token. */
const TOKEN_USER = "<token>"
const SECRET_MAX = 65_536

/**
 * Credentials as docker keeps them: `credHelpers`, `credsStore` (programs `docker-credential-NAME`), then `auths`.
 *
 * @param path - default: `config.json` in `DOCKER_CONFIG`, or in `~/.docker`
 * @throws the source does: ImageError `registry-config` for a file or helper that cannot be used, `json-invalid`, `io`
 * @example
 * ```ts
 * import { dockerCredentials, RegistryClient } from "@ts-vmm/oci-image/registry"
 *
 * await using client = new RegistryClient({ credentials: dockerCredentials("./config.json") })
 * ```
 */
export function dockerCredentials(path = dockerConfigFile()): CredentialSource {
  return async registry => {
    const config = await DockerConfig.read(path)
    const helper = config.helper(registry)
    if (helper !== undefined) return askHelper(helper, configKey(registry))
    const entry = config.entry(registry)
    return entry && readEntry(entry)
  }
}

function readEntry(entry: Fields): Credentials | undefined {
  const identityToken = entry.string("identitytoken", SECRET_MAX)
  if (identityToken) return { username: TOKEN_USER, password: "", identityToken }
  const encoded = entry.string("auth", SECRET_MAX)
  if (!encoded) {
    const username = entry.string("username", SECRET_MAX)
    return username ? { username, password: entry.string("password", SECRET_MAX) ?? "" } : undefined
  }
  const text = Buffer.from(encoded, "base64").toString()
  const colon = text.indexOf(":")
  if (colon < 1) throw entry.bad("auth", "is not USER:PASSWORD in base64")
  return { username: text.slice(0, colon), password: text.slice(colon + 1) }
}

/** @see docker/docker-credential-helpers: the server on stdin, JSON on stdout, another exit code for "none" */
async function askHelper(name: string, server: string): Promise<Credentials | undefined> {
  // Few have one, and starting programs is a large part of Node.
  const { runCredentialHelper } = await import("./credential-helper.js")
  const { code, output } = await runCredentialHelper(name, "get", server)
  if (code !== 0) {
    if (/credentials not found/i.test(output)) return undefined
    const why = code === null ? "was ended: it took too long or said too much" : `failed with code ${code}`
    throw new ImageError("registry-config", `docker-credential-${name} get ${why}`)
  }
  const what = `the answer of docker-credential-${name}`
  const fields = new Fields(parseJsonObject(Buffer.from(output), what), what, "registry-config")
  const username = fields.string("Username", SECRET_MAX) ?? ""
  const password = fields.string("Secret", SECRET_MAX) ?? ""
  return username === TOKEN_USER
    ? { username, password: "", identityToken: password }
    : { username, password }
}
