import { execFileSync } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { createServer as createTlsServer } from "node:https"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import type { ImageErrorCode } from "../errors.js"
import { ImageStore } from "../store/store.js"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import { type Fault, TestRegistry } from "../test-support/registry.js"
import type { CredentialSource } from "./credentials.js"
import type { HostSettings } from "./hosts.js"
import { RegistryClient, type RegistryClientOptions } from "./registry-client.js"

/** Nothing here waits for longer than it must. */
const FAST = { backoffMs: 1, maxBackoffMs: 20, attempts: 3, idleTimeoutMs: 300, connectTimeoutMs: 5000 }
const nobody: CredentialSource = async () => undefined

interface Setting {
  readonly options?: RegistryClientOptions
  readonly settings?: Partial<HostSettings>
  readonly name?: string
}

/** Pulls `app:1` into a new store; gives the image and the store's folder. */
async function pull(registry: TestRegistry, { options, settings, name = "app:1" }: Setting = {}) {
  const folder = join(temporaryFolder(), "store")
  const host = { plainHttp: true, mirrors: [], ...settings }
  const hosts = new Map([[registry.host, host]])
  await using client = new RegistryClient({ ...FAST, hosts, credentials: nobody, ...options })
  const store = await ImageStore.open(folder)
  try {
    return { folder, image: await store.load(client.source(`${registry.host}/${name}`)) }
  } finally {
    expect(readdirSync(join(folder, "tmp"))).toEqual([])
  }
}

const isBlob = (url = "") => url.includes("/blobs/")
/** A fault for the layer only: the config is small. */
const onLayer =
  (fault: Fault): Fault =>
  (request, response, content) =>
    isBlob(request.url) && (content?.length ?? 0) > 100_000 && fault(request, response, content)
/** The same fault, for the first `times` requests only. */
const first = (times: number, fault: Fault): Fault => {
  let left = times
  return (...args) => left-- > 0 && fault(...args)
}

describe("a pull", () => {
  test("gives the image, and asks for nothing twice", async () => {
    await using registry = await new TestRegistry().listen()
    const { image } = await pull(registry)
    expect(image.digest).toBe(registry.digest)
    expect(registry.requests).toHaveLength(3)
  })

  test("by digest, beside a tag that says something else", async () => {
    await using registry = await new TestRegistry().listen()
    const { image } = await pull(registry, { name: `app:nope@${registry.digest}` })
    expect(image.digest).toBe(registry.digest)
  })

  test("an image that is not there", async () => {
    await using registry = await new TestRegistry().listen()
    expect(await codeOf(() => pull(registry, { name: "app:2" }))).toBe("registry-not-found")
  })

  test("mirrors first, past those that fail", async () => {
    await using mirror = await new TestRegistry().listen()
    await using broken = await new TestRegistry().listen()
    await using registry = await new TestRegistry().listen()
    broken.fault = (_, response) => !!response.writeHead(404).end()
    const mirrors = [`http://${broken.host}`, `http://${mirror.host}`]
    const { image } = await pull(registry, { settings: { mirrors } })
    expect(image.digest).toBe(registry.digest)
    expect([broken.requests.length > 0, mirror.requests.length, registry.requests.length]).toEqual([
      true,
      3,
      0,
    ])
  })

  test("ends when it is aborted", async () => {
    await using registry = await new TestRegistry().listen()
    const abort = new AbortController()
    registry.fault = onLayer((_, response) => {
      response.writeHead(200).write("x")
      abort.abort(new Error("enough"))
      return true
    })
    const hosts = new Map([[registry.host, { plainHttp: true, mirrors: [] }]])
    await using client = new RegistryClient({ ...FAST, hosts, credentials: nobody })
    const store = await ImageStore.open(join(temporaryFolder(), "store"))
    const load = store.load(client.source(`${registry.host}/app:1`), { signal: abort.signal })
    await expect(load).rejects.toThrow("enough")
  })
})

describe("I13: a server that misbehaves, and a pull that ends right", () => {
  const cases: Record<string, Fault> = {
    "cuts the first answers off": first(2, (_, response, content) => {
      response.writeHead(200, { "content-length": content?.length ?? 0 })
      response.write(content?.subarray(0, 100_000), () => response.destroy())
      return true
    }),
    "gives the whole again instead of the rest": first(2, (request, response, content) => {
      if (!request.headers.range) {
        response.writeHead(200, { "content-length": content?.length ?? 0 })
        response.write(content?.subarray(0, 50_000), () => response.destroy())
      } else response.writeHead(200).end(content)
      return true
    }),
    "resets at once": first(2, request => !!request.socket.destroy()),
    "answers 503": first(2, (_, response) => !!response.writeHead(503).end("down")),
    "answers 429, with a time to wait": first(
      1,
      (_, response) => !!response.writeHead(429, { "retry-after": "3600" }).end(),
    ),
    "says nothing of the length": (_, response, content) => !!response.writeHead(200).end(content),
    "redirects to a path of its own": first(
      1,
      (request, response) => !!response.writeHead(307, { location: `${request.url}` }).end(),
    ),
    "stands still in the middle": first(1, (_, response, content) => {
      response.writeHead(200, { "content-length": content?.length ?? 0 })
      return response.write(content?.subarray(0, 1000)) || true
    }),
  }
  test.each(Object.entries(cases))("%s", async (_, fault) => {
    await using registry = await new TestRegistry().listen()
    registry.fault = onLayer(fault)
    expect((await pull(registry)).image.digest).toBe(registry.digest)
  })
})

describe("I8, I13: a server that misbehaves, and a pull that ends with one error", () => {
  const cases: [string, ImageErrorCode, Fault][] = [
    [
      "other content",
      "digest-mismatch",
      (_, response, content) => !!response.end(Buffer.alloc(content?.length ?? 0)),
    ],
    [
      "more than it declared",
      "size-mismatch",
      (_, response, content) => !!response.end(Buffer.concat([content as Buffer, Buffer.from("more")])),
    ],
    [
      "bytes without end",
      "size-mismatch",
      (_, response) => {
        response.writeHead(200)
        const pump = () => {
          while (!response.destroyed && response.write(Buffer.alloc(65_536)));
        }
        response.on("drain", pump)
        pump()
        return true
      },
    ],
    ["less, each time", "registry-unavailable", (_, response) => !!response.end("short")],
    ["503 for ever", "registry-unavailable", (_, response) => !!response.writeHead(503).end()],
    ["429 for ever", "registry-rate-limited", (_, response) => !!response.writeHead(429).end()],
    ["no answer", "registry-timeout", () => true],
    ["403", "registry-denied", (_, response) => !!response.writeHead(403).end()],
    [
      "another part",
      "registry-protocol",
      (_, response) => !!response.writeHead(206, { "content-range": "bytes 5-9/10" }).end("56789"),
    ],
    [
      "a redirect loop",
      "registry-redirect",
      (request, response) => !!response.writeHead(302, { location: `${request.url}` }).end(),
    ],
    [
      "a redirect to a file",
      "registry-insecure",
      (_, response) => !!response.writeHead(302, { location: "file:///etc/passwd" }).end(),
    ],
    [
      "a redirect to nowhere",
      "registry-redirect",
      (_, response) => !!response.writeHead(302, { location: "http://[" }).end(),
    ],
    [
      "a drip",
      "registry-timeout",
      (_, response) => {
        response.writeHead(200)
        const timer = setInterval(() => response.write("x"), 50)
        response.on("close", () => clearInterval(timer))
        return true
      },
    ],
  ]
  test.each(cases)("%s: %s", async (_, code, fault) => {
    await using registry = await new TestRegistry().listen()
    registry.fault = onLayer(fault)
    expect(await codeOf(() => pull(registry, { options: { ...FAST, idleTimeoutMs: 150 } }))).toBe(code)
  })

  test("I9: a manifest of 100 MB, and one of another type", async () => {
    await using registry = await new TestRegistry().listen()
    registry.fault = (_, response) =>
      !!response
        .writeHead(200, { "content-type": "application/vnd.oci.image.manifest.v1+json" })
        .end(Buffer.alloc(100 << 20))
    expect(await codeOf(() => pull(registry))).toBe("limit")
    registry.fault = (_, response) => !!response.writeHead(200, { "content-type": "text/html" }).end("<html>")
    expect(await codeOf(() => pull(registry))).toBe("media-type")
  })

  test("I8: a manifest that is not what its tag's digest says", async () => {
    await using registry = await new TestRegistry().listen()
    registry.fault = (_, response, content) =>
      !!response
        .writeHead(200, {
          "content-type": "application/vnd.oci.image.manifest.v1+json",
          "docker-content-digest": `sha256:${"0".repeat(64)}`,
        })
        .end(content)
    expect(await codeOf(() => pull(registry))).toBe("digest-mismatch")
  })
})

describe("I11: credentials", () => {
  const SECRET = "s3cret-password"
  const alice: CredentialSource = async () => ({ username: "alice", password: SECRET })
  const BASIC = `Basic ${Buffer.from(`alice:${SECRET}`).toString("base64")}`
  const needs =
    (authorization: string, challenge: string): Fault =>
    (request, response) =>
      request.headers.authorization !== authorization &&
      !!response.writeHead(401, { "www-authenticate": challenge }).end()

  test("basic, and only after being asked", async () => {
    await using registry = await new TestRegistry().listen()
    registry.fault = needs(BASIC, 'Basic realm="here"')
    expect((await pull(registry, { options: { credentials: alice } })).image.digest).toBe(registry.digest)
    expect(registry.requests[0]?.headers.authorization).toBeUndefined()
    expect(registry.requests).toHaveLength(4)
  })

  test("a token, fetched once from the realm with the credentials", async () => {
    await using registry = await new TestRegistry().listen()
    const challenge = `Bearer realm="http://${registry.host}/token?x=1",service="the \\"service\\"",scope="ignored"`
    registry.fault = (request, response, content) => {
      if (!request.url?.startsWith("/token"))
        return needs("Bearer t0ken", challenge)(request, response, content)
      const { searchParams } = new URL(request.url, "http://x")
      expect(Object.fromEntries(searchParams)).toEqual({
        x: "1",
        scope: "repository:app:pull",
        service: 'the "service"',
      })
      expect(request.headers.authorization).toBe(BASIC)
      return !!response.end(JSON.stringify({ access_token: "t0ken" }))
    }
    expect((await pull(registry, { options: { credentials: alice } })).image.digest).toBe(registry.digest)
    expect(registry.count("/token")).toBe(1)
  })

  test("a realm on another host gets none", async () => {
    await using realm = await new TestRegistry().listen()
    await using registry = await new TestRegistry().listen()
    const port = realm.host.split(":")[1]
    registry.fault = needs("Bearer t", `Bearer realm="http://localhost:${port}/token"`)
    realm.fault = (_, response) => !!response.end('{"token":"t"}')
    realm.server.close()
    await new Promise<void>(resolve => realm.server.listen(Number(port), "localhost", resolve))
    await pull(registry, { options: { credentials: alice } })
    expect(realm.requests.map(({ headers }) => headers.authorization)).toEqual([undefined])
  })

  test("a redirect to another host goes without them", async () => {
    await using storage = await new TestRegistry().listen()
    await using registry = await new TestRegistry().listen()
    registry.fault = (request, response, content) =>
      needs(BASIC, "Basic")(request, response, content) ||
      (isBlob(request.url) &&
        !!response.writeHead(307, { location: `http://${storage.host}${request.url}` }).end())
    await pull(registry, { options: { credentials: alice } })
    expect(storage.requests.map(({ headers }) => headers.authorization)).toEqual([undefined, undefined])
  })

  const refused: [string, ImageErrorCode, Fault][] = [
    [
      "a 401 for ever",
      "registry-unauthorized",
      (_, response) => !!response.writeHead(401, { "www-authenticate": "Basic" }).end(),
    ],
    ["a 401 without a way in", "registry-unauthorized", (_, response) => !!response.writeHead(401).end()],
    [
      "a realm that is no address",
      "registry-protocol",
      (_, response) => !!response.writeHead(401, { "www-authenticate": 'Bearer realm="there"' }).end(),
    ],
    [
      "a realm that is a file",
      "registry-insecure",
      (_, response) =>
        !!response.writeHead(401, { "www-authenticate": 'Bearer realm="file:///etc/passwd"' }).end(),
    ],
    [
      "a token of 10 MB",
      "limit",
      (request, response) =>
        request.url?.startsWith("/token")
          ? !!response.end(JSON.stringify({ token: "x".repeat(10 << 20) }))
          : !!response
              .writeHead(401, { "www-authenticate": `Bearer realm="http://${request.headers.host}/token"` })
              .end(),
    ],
    [
      "a token that would be two headers",
      "registry-protocol",
      (request, response) =>
        request.url?.startsWith("/token")
          ? !!response.end(JSON.stringify({ token: "a\r\nb: c" }))
          : !!response
              .writeHead(401, { "www-authenticate": `Bearer realm="http://${request.headers.host}/token"` })
              .end(),
    ],
  ]
  test.each(refused)("%s: %s, and no secret in the error", async (_, code, fault) => {
    await using registry = await new TestRegistry().listen()
    registry.fault = fault
    const error = await pull(registry, { options: { credentials: alice } }).then(
      () => undefined,
      (e: Error) => e,
    )
    expect(error).toMatchObject({ code })
    expect(JSON.stringify([error?.message, error, String(error?.cause)])).not.toContain(SECRET)
    expect(registry.requests.length).toBeLessThan(8)
  })
})

describe("I12: TLS", () => {
  /** A key and a certificate of its own for `subject`. */
  function certificate(subject: string, days = "1"): { key: Buffer; cert: Buffer } {
    const folder = temporaryFolder()
    const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")]
    const request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    const name = ["-subj", "/CN=test", "-addext", `subjectAltName=${subject}`, "-days", days]
    execFileSync("openssl", [...request, ...name, "-keyout", key, "-out", cert], { stdio: "ignore" })
    return { key: readFileSync(key), cert: readFileSync(cert) }
  }
  const tls = (keys: { key: Buffer; cert: Buffer }) =>
    new TestRegistry(handler => createTlsServer(keys, handler)).listen()

  test("a certificate that the settings vouch for", async () => {
    const keys = certificate("IP:127.0.0.1")
    await using registry = await tls(keys)
    const settings = { plainHttp: false, ca: keys.cert.toString() }
    expect((await pull(registry, { settings })).image.digest).toBe(registry.digest)
  })

  test.each([
    ["vouched for by nobody", "IP:127.0.0.1", false],
    ["for another host", "DNS:other.example", true],
  ])("one %s is refused, and asked once", async (_, subject, vouched) => {
    const keys = certificate(subject)
    await using registry = await tls(keys)
    const settings = { plainHttp: false, ...(vouched ? { ca: keys.cert.toString() } : {}) }
    expect(await codeOf(() => pull(registry, { settings }))).toBe("registry-tls")
    expect(registry.requests).toHaveLength(0)
  })

  test("plain HTTP is not fallen back to", async () => {
    await using registry = await new TestRegistry().listen()
    expect(await codeOf(() => pull(registry, { settings: { plainHttp: false } }))).toMatch(
      /^registry-(tls|unavailable)$/,
    )
    expect(registry.requests).toHaveLength(0)
  })

  test("a redirect from https to plain http is not followed", async () => {
    const keys = certificate("IP:127.0.0.1")
    await using plain = await new TestRegistry().listen()
    await using registry = await tls(keys)
    registry.fault = (request, response) =>
      !!response.writeHead(307, { location: `http://${plain.host}${request.url}` }).end()
    const settings = { plainHttp: false, ca: keys.cert.toString() }
    expect(await codeOf(() => pull(registry, { settings }))).toBe("registry-insecure")
    expect(plain.requests).toHaveLength(0)
  })
})
