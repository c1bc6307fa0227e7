// Registries behind a proxy: it is given its own credentials and no others, and sees nothing of what TLS hides.
import { once } from "node:events"
import { request as ask, createServer, type IncomingMessage, type Server } from "node:http"
import { createServer as createHttpsServer } from "node:https"
import { type AddressInfo, connect, type Socket } from "node:net"
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest"
import { TestCertificates } from "../test-support/certificates.js"
import { codeOf } from "../test-support/images.js"
import { configOf, pull, TestRegistry, testClient } from "../test-support/test-registry.js"
import type { HostSettings } from "./hosts.js"

const certificates = new TestCertificates()
afterAll(() => certificates[Symbol.dispose]())
certificates.authority("own")
certificates.certificate("right", "own", "IP:127.0.0.1")
certificates.certificate("elsewhere", "own", "DNS:registry.example")
const ca = certificates.read("own.pem")

/** A proxy in this process. It leads every name to one registry, and keeps what it was asked. */
class TestProxy implements AsyncDisposable {
  readonly server: Server
  readonly seen: IncomingMessage[] = []
  /** Sees what goes through tunnels, from the client. */
  readonly tunnelled: Buffer[] = []
  /** What it answers instead of leading on. */
  refuses: number | undefined
  /** What it says in a tunnel before the server does. */
  chatter = ""
  readonly #sockets = new Set<Socket>()
  readonly #target: TestRegistry

  constructor(target: TestRegistry, server: Server) {
    this.#target = target
    this.server = server
    server.on("request", (request, response) => {
      this.seen.push(request)
      if (this.refuses) return response.writeHead(this.refuses).end()
      const { pathname } = new URL(request.url ?? "")
      const { "proxy-authorization": _, ...headers } = request.headers
      const [host, port] = target.host.split(":")
      const onward = ask({ host, port, path: pathname, method: request.method, headers }, answer => {
        response.writeHead(answer.statusCode ?? 502, answer.headers)
        answer.pipe(response)
      })
      // One that is cut off is cut off for the client, too.
      onward.on("error", () => response.destroy())
      return onward.end()
    })
    server.on("connect", (request, socket) => this.#tunnel(request, socket as Socket))
    server.on("connection", socket => this.#keep(socket))
  }

  static async start(target: TestRegistry, server = createServer()): Promise<TestProxy> {
    const proxy = new TestProxy(target, server)
    await new Promise<void>(resolve => server.listen(0, "127.0.0.1", resolve))
    return proxy
  }

  get host(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`
  }

  #tunnel(request: IncomingMessage, socket: Socket): void {
    this.seen.push(request)
    if (this.refuses) {
      socket.end(`HTTP/1.1 ${this.refuses} no\r\ncontent-length: 0\r\n\r\n`)
      return
    }
    const [host, port] = this.#target.host.split(":")
    const onward = connect(Number(port), host, () => {
      socket.write(`HTTP/1.1 200 ok\r\n\r\n${this.chatter}`)
      socket.on("data", chunk => this.tunnelled.push(chunk))
      socket.pipe(onward).pipe(socket)
    })
    this.#keep(onward)
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket)
    socket.on("error", () => undefined).on("close", () => this.#sockets.delete(socket))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    this.server.close()
    await once(this.server, "close")
  }
}

const secureServer = (name: string) =>
  TestRegistry.start(handler => createHttpsServer(certificates.pair(name), handler))

/** Pulls by a name that only the proxy knows, or by the address of this machine. */
async function outcome(name: string, settings: HostSettings, environment = {}): Promise<unknown> {
  await using client = testClient({
    hosts: configOf({ [name]: settings }),
    environment,
    credentials: async () => ({ username: "alice", password: "registry-secret" }),
  })
  return await pull(client, `${name}/app:1`).catch(error => error)
}

describe("through a tunnel", () => {
  let registry: TestRegistry
  let proxy: TestProxy
  beforeEach(async () => {
    registry = await secureServer("elsewhere")
    proxy = await TestProxy.start(registry)
  })
  afterEach(async () => {
    await proxy[Symbol.asyncDispose]()
    await registry[Symbol.asyncDispose]()
  })

  const name = "registry.example:5000"
  const environment = () => ({ HTTPS_PROXY: `http://bob:proxy-secret@${proxy.host}` })

  test("an image comes whole; the proxy learns host and port, and gets its own credentials only", async () => {
    registry.fault = (request, response) => {
      if (request.headers.authorization) return false
      response.writeHead(401, { "www-authenticate": "Basic realm=x" }).end()
      return true
    }
    expect(await outcome(name, { ca }, environment())).toBe(registry.digest)
    expect(proxy.seen.length).toBeGreaterThan(0)
    for (const { method, url, headers } of proxy.seen) {
      expect([method, url]).toEqual(["CONNECT", name])
      expect(Object.keys(headers).sort()).toEqual(["connection", "host", "proxy-authorization"])
    }
    expect(registry.requests.some(({ headers }) => "proxy-authorization" in headers)).toBe(false)
    expect(Buffer.concat(proxy.tunnelled).includes("/v2/")).toBe(false)
  })

  test("I12: the server proves who it is as without one", async () => {
    expect(await outcome("other.example:5000", { ca }, environment())).toMatchObject({ code: "registry-tls" })
    expect(await outcome(name, { plainHttp: false }, environment())).toMatchObject({ code: "registry-tls" })
    expect(registry.requests).toEqual([])
  })

  test.each([
    [407, "registry-proxy", /wants other credentials/],
    [403, "registry-proxy", /does not lead to registry.example:5000 \(HTTP 403\)/],
    [502, "registry-unavailable", /does not lead to/],
  ])("an answer %i is %s, without a word of the credentials", async (status, code, message) => {
    proxy.refuses = status
    const error = (await outcome(name, { ca }, environment())) as Error
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) })
    expect(error.message).not.toContain("proxy-secret")
    // What may pass is tried again.
    expect(proxy.seen).toHaveLength(status === 502 ? 5 : 1)
  })

  test("a proxy that is not there is named", async () => {
    const gone = await outcome(name, { ca }, { HTTPS_PROXY: "http://127.0.0.1:1" })
    expect(gone).toMatchObject({
      code: "registry-unavailable",
      message: /the proxy: cannot reach 127.0.0.1:1/,
    })
  })

  test("a proxy that speaks for the server is not listened to", async () => {
    proxy.chatter = "HTTP/1.1 200 ok\r\n\r\n"
    expect(await outcome(name, { ca }, environment())).toMatchObject({ code: "registry-protocol" })
    expect(registry.requests).toEqual([])
  })

  test("one that never answers is given up", async () => {
    proxy.server.removeAllListeners("connect").on("connect", () => undefined)
    await using client = testClient({
      hosts: configOf({ [name]: { ca } }),
      environment: environment(),
      connectTimeoutMs: 50,
    })
    expect(await codeOf(() => pull(client, `${name}/app:1`))).toBe("registry-timeout")
  })

  test("NO_PROXY leads past it", async () => {
    // This machine, by an address that is no loopback: no name server is asked, which may take its time.
    const direct = { ...environment(), NO_PROXY: "0.0.0.0" }
    expect(await outcome("0.0.0.0:1", { ca }, direct)).toMatchObject({ code: "registry-unavailable" })
    expect(proxy.seen).toEqual([])
  })

  test("I12: a proxy with TLS of its own has to be trusted, by the settings of its own name", async () => {
    const server = createHttpsServer(certificates.pair("right"))
    await using secure = await TestProxy.start(registry, server as unknown as Server)
    const hosts = configOf({ [name]: { ca }, [secure.host]: { ca } })
    const environment = { HTTPS_PROXY: `https://${secure.host}` }
    await using client = testClient({ hosts, environment })
    expect(await pull(client, `${name}/app:1`)).toBe(registry.digest)
    expect(await outcome(name, { ca }, environment)).toMatchObject({ code: "registry-tls" })
  })
})

describe("over plain HTTP, a proxy", () => {
  let registry: TestRegistry
  let proxy: TestProxy
  beforeEach(async () => {
    registry = await TestRegistry.start()
    proxy = await TestProxy.start(registry)
  })
  afterEach(async () => {
    await proxy[Symbol.asyncDispose]()
    await registry[Symbol.asyncDispose]()
  })

  const name = "registry.example:5000"

  test("is asked for whole addresses, with its credentials", async () => {
    const environment = { HTTP_PROXY: `http://bob:b@${proxy.host}` }
    expect(await outcome(name, { plainHttp: true }, environment)).toBe(registry.digest)
    for (const { url, headers } of proxy.seen) {
      expect(url).toMatch(/^http:\/\/registry\.example:5000\/v2\/app\//)
      expect(headers).toMatchObject({ host: name, "proxy-authorization": "Basic Ym9iOmI=" })
    }
    expect(registry.requests.length).toBe(proxy.seen.length)
  })

  test("says that it wants credentials", async () => {
    proxy.refuses = 407
    const environment = { HTTP_PROXY: `http://${proxy.host}` }
    expect(await outcome(name, { plainHttp: true }, environment)).toMatchObject({ code: "registry-proxy" })
  })

  test("is not asked for this machine by the environment, but by the host's own setting", async () => {
    const address = `http://${proxy.host}`
    const environment = { HTTP_PROXY: address, HTTPS_PROXY: address }
    expect(await outcome(registry.host, { plainHttp: true }, environment)).toBe(registry.digest)
    expect(proxy.seen).toEqual([])
    expect(await outcome(registry.host, { plainHttp: true, proxy: address })).toBe(registry.digest)
    expect(proxy.seen).not.toEqual([])
  })
})
