import { loadRegistryHosts, login as logIn, logout as logOut } from "@ts-vmm/oci-image/registry"
import { defaultRegistriesFile } from "@ts-vmm/runtime"
import { CliError } from "../exit.js"
import { ask, askSecretly, readStdin } from "../prompt.js"

interface LoginOptions {
  readonly username?: string
  readonly password?: string
  readonly passwordStdin?: boolean
}

/** `login`: credentials are tried with the registry, and then kept where docker keeps them. */
export async function login(server: string | undefined, options: LoginOptions): Promise<void> {
  const credentials = await readCredentials(options)
  await logIn(registryOf(server), credentials, { hosts: loadRegistryHosts(defaultRegistriesFile()) })
  console.log("Login Succeeded")
}

/** `logout` */
export async function logout(server: string | undefined): Promise<void> {
  const registry = registryOf(server)
  const wasThere = await logOut(registry)
  console.log(wasThere ? `Removing login credentials for ${registry}` : `Not logged in to ${registry}`)
}

async function readCredentials(options: LoginOptions): Promise<{ username: string; password: string }> {
  const { passwordStdin = false } = options
  if (passwordStdin && options.password !== undefined)
    throw new CliError("--password and --password-stdin are mutually exclusive")
  if (passwordStdin && options.username === undefined)
    throw new CliError("must provide --username with --password-stdin")
  const isComplete = options.username !== undefined && (passwordStdin || options.password !== undefined)
  if (!isComplete && !process.stdin.isTTY)
    throw new CliError("cannot ask without a terminal: use --username and --password-stdin")
  const username = options.username ?? (await ask("Username: "))
  const password = passwordStdin ? await readStdin() : (options.password ?? (await askSecretly("Password: ")))
  if (password === "") throw new CliError("the password is empty")
  return { username, password }
}

/** As docker understands it: an address stands for its host, and nothing for docker.io. */
function registryOf(server = "docker.io"): string {
  const host = server.replace(/^https?:\/\//, "").replace(/\/.*$/s, "")
  return host === "index.docker.io" || host === "registry-1.docker.io" ? "docker.io" : host
}
