// Debian's docker-registry on a loopback port, with what it needs to be asked in each way: TLS, passwords, tokens.
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { createSign, X509Certificate } from "node:crypto"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:http"
import { type AddressInfo, connect, type Server } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { freePort } from "../fixtures/free-port.js"

export const USER = "alice"
export const PASSWORD = "p:ss wörd"
/** The name that the registry and its token server know each other by. */
const SERVICE = "test-registry"
/** A start takes a moment, unless the machine has much else to do. */
const START_MS = 60_000

/** How a registry lets people in. */
export interface RegistryKind {
  readonly tls?: boolean
  readonly auth?: "basic" | "token"
}

/** One registry process, gone with its folder when disposed. */
export class DockerRegistry implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), "ts-vmm-registry-"))
  readonly kind: RegistryKind
  /** Scopes that tokens were asked for, in order. */
  readonly scopes: string[] = []
  host = ""
  #process: ChildProcess | undefined
  #tokens: Server | undefined

  private constructor(kind: RegistryKind) {
    this.kind = kind
  }

  static async start(kind: RegistryKind): Promise<DockerRegistry> {
    const registry = new DockerRegistry(kind)
    try {
      await registry.#start()
    } catch (error) {
      await registry[Symbol.asyncDispose]()
      throw error
    }
    return registry
  }

  /** PEM of the only authority that vouches for it. */
  get ca(): string {
    return this.#path("ca.pem")
  }

  /** A `registries.json` that lets our client reach it. */
  settings(): string {
    const settings = this.kind.tls ? { ca: this.ca } : { plainHttp: true }
    return this.write("registries.json", JSON.stringify({ hosts: { [this.host]: settings } }))
  }

  /** Options of skopeo for this registry; `role` is `src`, `dest` or nothing. */
  skopeoOptions(role: "src" | "dest" | ""): string[] {
    const prefix = role === "" ? "--" : `--${role}-`
    const trust = this.kind.tls ? [`${prefix}cert-dir`, this.#path("skopeo")] : [`${prefix}tls-verify=false`]
    return this.kind.auth ? [...trust, `${prefix}creds`, `${USER}:${PASSWORD}`] : trust
  }

  async #start(): Promise<void> {
    this.#makeCertificates()
    // It does not say which port it took, so it cannot choose one.
    const port = await freePort()
    this.host = `127.0.0.1:${port}`
    const config = this.write("config.yml", JSON.stringify(await this.#config()))
    this.#process = spawn("docker-registry", ["serve", config], {
      stdio: "ignore",
      env: { PATH: process.env["PATH"] ?? "", OTEL_TRACES_EXPORTER: "none" },
    })
    await untilListening(port, this.#process)
  }

  /** The configuration file is YAML, of which JSON is a part. */
  async #config(): Promise<object> {
    const rootdirectory = this.#path("storage")
    mkdirSync(rootdirectory)
    const tls = { certificate: this.#path("server.pem"), key: this.#path("server.key") }
    return {
      version: 0.1,
      log: { level: "error", accesslog: { disabled: true } },
      storage: { filesystem: { rootdirectory }, delete: { enabled: true } },
      http: { addr: this.host, secret: "test", ...(this.kind.tls ? { tls } : {}) },
      ...(this.kind.auth === "basic" ? { auth: { htpasswd: this.#passwords() } } : {}),
      ...(this.kind.auth === "token" ? { auth: { token: await this.#startTokens() } } : {}),
    }
  }

  #passwords(): object {
    const path = this.#path("htpasswd")
    execFileSync("htpasswd", ["-B", "-b", "-c", path, USER, PASSWORD], { stdio: "ignore" })
    return { realm: "test", path }
  }

  async #startTokens(): Promise<object> {
    const server = createServer((request, response) => {
      const expected = `Basic ${Buffer.from(`${USER}:${PASSWORD}`).toString("base64")}`
      if (request.headers.authorization !== expected) {
        response.writeHead(401).end()
        return
      }
      const scopes = new URL(request.url ?? "", "http://tokens").searchParams.getAll("scope")
      this.scopes.push(...scopes)
      response.setHeader("content-type", "application/json")
      response.end(JSON.stringify({ token: this.#signToken(scopes), expires_in: 300 }))
    })
    this.#tokens = server
    await new Promise<void>(resolve => server.listen(0, "127.0.0.1", resolve))
    return {
      realm: `http://127.0.0.1:${(server.address() as AddressInfo).port}/token`,
      service: SERVICE,
      issuer: "test-issuer",
      rootcertbundle: this.ca,
    }
  }

  /** @see distribution/distribution, "Token Authentication Implementation" */
  #signToken(scopes: readonly string[]): string {
    const now = Math.floor(Date.now() / 1000)
    const access = scopes
      .flatMap(scope => scope.split(" "))
      .map(scope => scope.split(":"))
      .map(([type, name, actions = ""]) => ({ type, name, actions: actions.split(",") }))
    const certificate = new X509Certificate(readFileSync(this.#path("server.pem")))
    const header = { typ: "JWT", alg: "RS256", x5c: [certificate.raw.toString("base64")] }
    const times = { iat: now - 10, nbf: now - 10, exp: now + 300 }
    const claims = { iss: "test-issuer", sub: USER, aud: SERVICE, jti: `${Math.random()}`, ...times, access }
    const text = [header, claims]
      .map(part => Buffer.from(JSON.stringify(part)).toString("base64url"))
      .join(".")
    const signature = createSign("RSA-SHA256")
      .update(text)
      .sign(readFileSync(this.#path("server.key")))
    return `${text}.${signature.toString("base64url")}`
  }

  /** An authority of our own, and a certificate of it for the loopback address. */
  #makeCertificates(): void {
    const openssl = (...args: string[]) =>
      execFileSync("openssl", args, { stdio: "ignore", cwd: this.folder })
    const key = ["-newkey", "rsa:2048", "-nodes"]
    openssl(
      "req",
      "-x509",
      ...key,
      "-keyout",
      "ca.key",
      "-out",
      "ca.pem",
      "-days",
      "2",
      "-subj",
      "/CN=test CA",
    )
    openssl("req", ...key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    this.write("san", "subjectAltName=IP:127.0.0.1")
    const signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san"]
    openssl("x509", "-req", "-in", "server.csr", "-out", "server.pem", "-days", "2", ...signer)
    mkdirSync(this.#path("skopeo"))
    this.write("skopeo/ca.crt", readFileSync(this.ca, "utf8"))
  }

  #path(name: string): string {
    return join(this.folder, name)
  }

  /** Writes a file into the folder; @returns its path */
  write(name: string, text: string): string {
    writeFileSync(this.#path(name), text)
    return this.#path(name)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#process
    if (child && child.exitCode === null && child.signalCode === null) {
      const gone = new Promise(resolve => child.once("exit", resolve))
      child.kill("SIGKILL")
      await gone
    }
    await new Promise(resolve => (this.#tokens ? this.#tokens.close(resolve) : resolve(undefined)))
    rmSync(this.folder, { recursive: true, force: true })
  }
}

async function untilListening(port: number, child: ChildProcess): Promise<void> {
  const deadline = performance.now() + START_MS
  while (performance.now() < deadline) {
    if (child.exitCode !== null) throw new Error(`docker-registry ended with code ${child.exitCode}`)
    if (await canConnect(port)) return
    await sleep(50)
  }
  throw new Error("docker-registry does not listen")
}

function canConnect(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, "127.0.0.1")
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false))
    socket.once("connect", () => socket.destroy())
  })
}
