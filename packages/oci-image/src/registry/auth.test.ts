// Who gets to see credentials, catalogue I11.
import { once } from "node:events"
import { createServer, type IncomingMessage, type Server } from "node:http"
import type { AddressInfo } from "node:net"
import { inspect } from "node:util"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { codeOf } from "../test-support/images.js"
import { configOf, pull, TestClock, TestRegistry, testClient } from "../test-support/test-registry.js"
import type { RegistryClientOptions } from "./registry-client.js"

const PASSWORD = "very-secret-password"
const TOKEN = "very-secret-token"
const BASIC = `Basic ${Buffer.from(`alice:${PASSWORD}`).toString("base64")}`
const credentials = async () => ({ username: "alice", password: PASSWORD })

/** A token server, or any other host: what it is asked is kept. */
class Other implements AsyncDisposable {
  readonly requests: IncomingMessage[] = []
  readonly bodies: string[] = []
  reply = JSON.stringify({ token: TOKEN })
  status = 200
  headers: Record<string, string> = {}
  readonly #server: Server

  private constructor() {
    this.#server = createServer(async (request, response) => {
      this.requests.push(request)
      let body = ""
      for await (const chunk of request) body += chunk
      this.bodies.push(body)
      response.writeHead(this.status, this.headers).end(this.reply)
    })
  }

  static async start(host = "127.0.0.1"): Promise<Other> {
    const other = new Other()
    other.#server.listen(0, host)
    await once(other.#server, "listening")
    return other
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  get seen(): (string | undefined)[] {
    return this.requests.map(({ headers }) => headers.authorization)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise(resolve => this.#server.close(resolve))
  }
}

let registry: TestRegistry
let other: Other

beforeEach(async () => {
  registry = await TestRegistry.start()
  other = await Other.start("127.0.0.2")
})

afterEach(async () => {
  await registry[Symbol.asyncDispose]()
  await other[Symbol.asyncDispose]()
})

const elsewhere = () => `http://127.0.0.2:${other.port}`

/** Lets in who has `expected`, and challenges everybody else. */
function guard(challenge: string, expected: string): void {
  registry.fault = (request, response) => {
    if (request.headers.authorization === expected) return false
    response.writeHead(401, { "www-authenticate": challenge }).end()
    return true
  }
}

async function failure(options: RegistryClientOptions): Promise<{ code: string; text: string }> {
  await using client = testClient(options)
  const error = await pull(client, `${registry.host}/app:1`).then(
    () => undefined,
    cause => cause,
  )
  return { code: error?.code, text: inspect(error, { depth: 20, showHidden: true }) + JSON.stringify(error) }
}

async function pulled(options: RegistryClientOptions): Promise<string> {
  await using client = testClient(options)
  return await pull(client, `${registry.host}/app:1`)
}

describe("a registry that wants a password", () => {
  test("gets it, once it asked", async () => {
    guard('Basic realm="x"', BASIC)
    expect(await pulled({ credentials })).toBe(registry.digest)
    expect(registry.requests[0]?.headers.authorization).toBeUndefined()
    expect(registry.requests.filter(({ headers }) => !headers.authorization)).toHaveLength(1)
  })

  test("I11: a 401 loop ends, and says nothing of the password", async () => {
    guard('Basic realm="x"', "nothing is good enough")
    const { code, text } = await failure({ credentials })
    expect(code).toBe("registry-unauthorized")
    expect(registry.requests).toHaveLength(2)
    expect(text).not.toContain(PASSWORD)
    expect(text).not.toContain(BASIC.slice(6))
  })

  test("without credentials the error says what to do", async () => {
    guard('Basic realm="x"', BASIC)
    const { code, text } = await failure({})
    expect(code).toBe("registry-unauthorized")
    expect(text).toContain("docker login")
  })

  test.each(["", "Digest realm=x", "=,=", '"'.repeat(10_000)])(
    "I11: challenge %# is not understood",
    async challenge => {
      guard(challenge, BASIC)
      expect((await failure({ credentials })).code).toBe("registry-unauthorized")
    },
  )
})

describe("a registry that wants a token", () => {
  const realm = () => `${elsewhere()}/token`

  test("I11: its realm on another host does not see the password", async () => {
    guard(`Bearer realm="${realm()}",service="s"`, `Bearer ${TOKEN}`)
    expect(await pulled({ credentials })).toBe(registry.digest)
    expect(other.seen).toEqual([undefined])
  })

  test("I11: a refusal by such a realm says how to trust it", async () => {
    guard(`Bearer realm="${realm()}",service="s"`, `Bearer ${TOKEN}`)
    other.status = 401
    const { code, text } = await failure({ credentials })
    expect(code).toBe("registry-unauthorized")
    expect(text).toContain("tokenHosts")
    expect(text).not.toContain(PASSWORD)
  })

  test("a realm that the settings name sees it, with the scope that is needed and no other", async () => {
    const scope = "repository:everything:push"
    guard(`Bearer realm="${realm()}?a=b",service="s",scope="${scope}"`, `Bearer ${TOKEN}`)
    const hosts = configOf({ [registry.host]: { tokenHosts: [`127.0.0.2:${other.port}`] } })
    expect(await pulled({ credentials, hosts })).toBe(registry.digest)
    expect(other.seen).toEqual([BASIC])
    const { searchParams } = new URL(other.requests[0]?.url ?? "", "http://x")
    expect(Object.fromEntries(searchParams)).toEqual({ a: "b", service: "s", scope: "repository:app:pull" })
  })

  test("I11: a realm of plain HTTP is refused, but on this machine or where it is allowed", async () => {
    guard('Bearer realm="http://login.example/token"', `Bearer ${TOKEN}`)
    expect((await failure({ credentials })).code).toBe("registry-insecure")
  })

  test.each([
    ["no address", 'Bearer realm="token"', "registry-protocol"],
    ["none", "Bearer service=x", "registry-protocol"],
    ["another protocol", 'Bearer realm="file:///etc/passwd"', "registry-insecure"],
    ["a password of its own", 'Bearer realm="https://a:b@login.example/"', "registry-insecure"],
  ])("I11: a realm that is %s is refused", async (_, challenge, code) => {
    guard(challenge, `Bearer ${TOKEN}`)
    expect((await failure({ credentials })).code).toBe(code)
  })

  test.each([
    ["of 2 MB", () => JSON.stringify({ token: "t".repeat(2e6) }), "limit"],
    ["longer than a header", () => JSON.stringify({ token: "t".repeat(70_000) }), "registry-protocol"],
    ["with a line break", () => JSON.stringify({ token: "a\r\nx: y" }), "registry-protocol"],
    ["that is none", () => "{}", "registry-protocol"],
    ["of another type", () => JSON.stringify({ token: { a: 1 } }), "registry-protocol"],
    ["that is no JSON", () => "token", "json-invalid"],
    ["with a life of no sense", () => JSON.stringify({ token: TOKEN, expires_in: -1 }), "registry-protocol"],
  ])("I11: a token %s is refused", async (_, reply, code) => {
    guard(`Bearer realm="${realm()}"`, `Bearer ${TOKEN}`)
    other.reply = reply()
    const { code: actual, text } = await failure({ credentials })
    expect(actual).toBe(code)
    expect(text).not.toContain(PASSWORD)
  })

  test("I11: a token that is not taken ends it, and is not told", async () => {
    guard(`Bearer realm="${realm()}"`, "Bearer another")
    const { code, text } = await failure({ credentials })
    expect(code).toBe("registry-unauthorized")
    expect(other.requests).toHaveLength(1)
    expect(text).not.toContain(TOKEN)
  })

  test("a token is used until it runs out", async () => {
    guard(`Bearer realm="${realm()}"`, `Bearer ${TOKEN}`)
    other.reply = JSON.stringify({ access_token: TOKEN, expires_in: 100 })
    const clock = new TestClock()
    await using client = testClient({ credentials, clock })
    await pull(client, `${registry.host}/app:1`)
    await pull(client, `${registry.host}/app:1`)
    expect(other.requests).toHaveLength(1)
    clock.advance(100_000)
    await pull(client, `${registry.host}/app:1`)
    expect(other.requests).toHaveLength(2)
  })

  test("an identity token is sent as a form, to a trusted realm only", async () => {
    guard(`Bearer realm="${realm()}",service="s"`, `Bearer ${TOKEN}`)
    const identity = async () => ({ username: "<token>", password: "", identityToken: "refresh" })
    const hosts = configOf({ [registry.host]: { tokenHosts: [`127.0.0.2:${other.port}`] } })
    expect(await pulled({ credentials: identity, hosts })).toBe(registry.digest)
    expect(other.requests[0]?.method).toBe("POST")
    expect(Object.fromEntries(new URLSearchParams(other.bodies[0]))).toMatchObject({
      grant_type: "refresh_token",
      refresh_token: "refresh",
      scope: "repository:app:pull",
    })
    await pulled({ credentials: identity })
    expect(other.bodies[1]).toBe("")
  })
})

describe("a redirect", () => {
  function redirect(to: string): void {
    registry.fault = (request, response) => {
      if (request.headers.authorization !== BASIC) {
        response.writeHead(401, { "www-authenticate": "Basic realm=x" }).end()
        return true
      }
      if (!request.url?.includes(registry.layerPath)) return false
      response.writeHead(307, { location: to }).end()
      return true
    }
  }

  test("I11: to another host goes without credentials and headers", async () => {
    redirect(`${elsewhere()}/layer`)
    other.reply = registry.layer.toString("latin1")
    const hosts = configOf({ [registry.host]: { headers: { "x-key": "secret" } } })
    expect(await pulled({ credentials, hosts })).toBe(registry.digest)
    expect(registry.requests[0]?.headers["x-key"]).toBe("secret")
    expect(other.seen).toEqual([undefined])
    expect(other.requests[0]?.headers["x-key"]).toBeUndefined()
  })

  test("I11: to a host that asks for credentials gets none", async () => {
    redirect(`${elsewhere()}/layer`)
    other.status = 401
    other.headers = { "www-authenticate": "Basic realm=x" }
    const { code, text } = await failure({ credentials })
    expect(code).toBe("registry-redirect")
    expect(other.seen).toEqual([undefined])
    expect(text).not.toContain(PASSWORD)
  })

  test("I11: that comes back does not bring credentials back", async () => {
    redirect(`${elsewhere()}/layer`)
    other.status = 307
    other.headers = { location: `http://${registry.host}/v2/app/trap` }
    expect((await failure({ credentials })).code).toBe("registry-redirect")
    expect(registry.requests.at(-1)?.url).toBe("/v2/app/trap")
    expect(registry.requests.at(-1)?.headers.authorization).toBeUndefined()
  })

  test("I11: what an address carries is not told", async () => {
    redirect(`${elsewhere()}/layer?signature=${TOKEN}`)
    other.status = 403
    const { code, text } = await failure({ credentials })
    expect(code).toBe("registry-denied")
    expect(text).not.toContain(TOKEN)
  })

  test.each([
    ["I13: in a circle", () => `http://${registry.host}/v2/app/${registry.layerPath}`, "registry-redirect"],
    ["I12: to plain HTTP elsewhere", () => "http://files.example/layer", "registry-insecure"],
    ["I13: to no address", () => "http://[", "registry-redirect"],
    ["I13: to another protocol", () => "ftp://files.example/layer", "registry-insecure"],
    ["I11: with a password", () => "https://a:b@files.example/layer", "registry-insecure"],
  ])("%s is refused", async (_, to, code) => {
    redirect(to())
    expect((await failure({ credentials })).code).toBe(code)
  })
})

test("credentials are asked for by the mirror's own name", async () => {
  guard("Basic realm=x", BASIC)
  const asked: string[] = []
  const hosts = configOf({ "registry.example": { mirrors: [{ url: `http://${registry.host}` }] } })
  const source = async (host: string) => {
    asked.push(host)
    return credentials()
  }
  await using client = testClient({ credentials: source, hosts })
  expect(await codeOf(() => pull(client, "registry.example/app:1"))).toBeUndefined()
  expect(asked).toEqual([registry.host])
})
