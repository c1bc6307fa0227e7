import { ImageError } from "../errors.js"
import { Authorizer } from "./authorizer.js"
import { runCredentialHelper } from "./credential-helper.js"
import type { Credentials } from "./credentials.js"
import { configKey, DockerConfig, dockerConfigFile } from "./docker-config.js"
import type { RegistryHosts } from "./hosts.js"
import { Session } from "./session.js"
import { Transport, type TransportOptions } from "./transport.js"

/** Where to log in, and where that is kept. */
export interface LoginOptions extends TransportOptions {
  /** Settings of single registries, of `loadRegistryHosts`. */
  readonly hosts?: RegistryHosts
  /** Default: `config.json` in `DOCKER_CONFIG`, or in `~/.docker`. */
  readonly configFile?: string
  readonly signal?: AbortSignal
}

/**
 * Tries credentials with a registry and keeps them where docker does: with the credential helper that its
 * `config.json` names, or in that file, for its owner's eyes only.
 *
 * @param registry - `HOST[:PORT]` as in image names; `docker.io` is docker's own
 * @throws ImageError `registry-unauthorized` when they are not taken (then nothing is kept), `registry-…`, `io`
 * @example
 * ```ts
 * import { login } from "@ts-vmm/oci-image/registry"
 *
 * await login("registry.example:5000", { username: "alice", password: process.env["PASSWORD"] ?? "" })
 * ```
 */
export async function login(
  registry: string,
  credentials: Credentials,
  options: LoginOptions = {},
): Promise<void> {
  await verify(registry, credentials, options)
  const path = options.configFile ?? dockerConfigFile()
  const config = await DockerConfig.read(path)
  const helper = config.helper(registry)
  if (helper !== undefined) return store(helper, registry, credentials)
  const { username, password, identityToken } = credentials
  const auth = Buffer.from(`${username}:${password}`).toString("base64")
  await DockerConfig.update(path, registry, identityToken ? { identitytoken: identityToken } : { auth })
}

/**
 * Forgets a registry's credentials; nothing is asked of the registry.
 *
 * @returns whether there were any in the file; a helper does not say
 * @throws ImageError `registry-config`, `json-invalid`, `io`
 */
export async function logout(
  registry: string,
  { configFile = dockerConfigFile() }: Pick<LoginOptions, "configFile"> = {},
): Promise<boolean> {
  const config = await DockerConfig.read(configFile)
  const helper = config.helper(registry)
  if (helper !== undefined) await runCredentialHelper(helper, "erase", configKey(registry))
  if (!config.entry(registry)) return helper !== undefined
  await DockerConfig.update(configFile, registry, undefined)
  return true
}

/** A registry that asks for nothing takes any credentials, as it does with docker. */
async function verify(registry: string, credentials: Credentials, options: LoginOptions): Promise<void> {
  checkUser(credentials)
  const transport = new Transport(options, options.hosts ?? new Map())
  try {
    const authorizer = new Authorizer(transport, async () => credentials)
    const session = new Session({ transport, authorizer }, { registry, repository: "" }, {}, options.signal)
    await session.tell({ to: "", what: "a log-in" }, 200)
  } finally {
    await transport.close()
  }
}

/** What cannot be told apart again when it is read. @see RFC 7617, 2 */
function checkUser({ username, identityToken }: Credentials): void {
  if (identityToken || (username !== "" && !username.includes(":"))) return
  throw new ImageError("registry-config", "a user name has at least one character, and no colon")
}

async function store(helper: string, registry: string, credentials: Credentials): Promise<void> {
  const { username, password, identityToken } = credentials
  const document = {
    ServerURL: configKey(registry),
    Username: identityToken ? "<token>" : username,
    Secret: identityToken ?? password,
  }
  const { code } = await runCredentialHelper(helper, "store", JSON.stringify(document))
  if (code !== 0)
    throw new ImageError("registry-config", `docker-credential-${helper} does not keep the credentials`)
}
