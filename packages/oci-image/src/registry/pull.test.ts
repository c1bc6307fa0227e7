import { readdirSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import type { ImageErrorCode } from "../errors.js"
import { ImageStore } from "../store/store.js"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import { type Fault, TestRegistry } from "../test-support/test-registry.js"
import type { CredentialSource } from "./credentials.js"
import type { HostSettings } from "./hosts.js"
import { RegistryClient, type RegistryClientOptions } from "./registry-client.js"

/**
 * Nothing here waits for longer than it must. Only where a server has to be given up is that soon: a busy machine lets an
 * answer wait as well, which would then be asked for once more.
 */
const FAST = { backoffMs: 1, maxBackoffMs: 20, attempts: 3 }
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
    await using registry = await TestRegistry.start()
    const { image } = await pull(registry)
    expect(image.digest).toBe(registry.digest)
    expect(registry.requests.map(({ method }) => method)).toEqual(["HEAD", "GET", "GET", "GET"])
  })

  test("by digest, beside a tag that says something else", async () => {
    await using registry = await TestRegistry.start()
    const { image } = await pull(registry, { name: `app:nope@${registry.digest}` })
    expect(image.digest).toBe(registry.digest)
  })

  test("an image that is not there", async () => {
    await using registry = await TestRegistry.start()
    expect(await codeOf(() => pull(registry, { name: "app:2" }))).toBe("registry-not-found")
  })

  test("mirrors first, past those that fail", async () => {
    await using mirror = await TestRegistry.start()
    await using broken = await TestRegistry.start()
    await using registry = await TestRegistry.start()
    broken.fault = (_, response) => !!response.writeHead(404).end()
    const mirrors = [`http://${broken.host}`, `http://${mirror.host}`]
    const { image } = await pull(registry, { settings: { mirrors } })
    expect(image.digest).toBe(registry.digest)
    expect([broken.requests.length > 0, mirror.requests.length, registry.requests.length]).toEqual([
      true,
      4,
      0,
    ])
  })

  test("ends when it is aborted", async () => {
    await using registry = await TestRegistry.start()
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
  }
  test.each(Object.entries(cases))("%s", async (_, fault) => {
    await using registry = await TestRegistry.start()
    registry.fault = onLayer(fault)
    expect((await pull(registry)).image.digest).toBe(registry.digest)
  })

  test("stands still in the middle", async () => {
    await using registry = await TestRegistry.start()
    registry.fault = onLayer(
      first(1, (_, response, content) => {
        response.writeHead(200, { "content-length": content?.length ?? 0 })
        return response.write(content?.subarray(0, 1000)) || true
      }),
    )
    const options = { ...FAST, idleTimeoutMs: 300, attempts: 10 }
    expect((await pull(registry, { options })).image.digest).toBe(registry.digest)
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
    ["less, each time", "size-mismatch", (_, response) => !!response.end("short")],
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
    await using registry = await TestRegistry.start()
    registry.fault = onLayer(fault)
    const options = code === "registry-timeout" ? { ...FAST, idleTimeoutMs: 150 } : FAST
    expect(await codeOf(() => pull(registry, { options }))).toBe(code)
  })

  test("I9: a manifest of 100 MB, and one of another type", async () => {
    await using registry = await TestRegistry.start()
    registry.fault = (_, response) =>
      !!response
        .writeHead(200, { "content-type": "application/vnd.oci.image.manifest.v1+json" })
        .end(Buffer.alloc(100 << 20))
    expect(await codeOf(() => pull(registry))).toBe("limit")
    registry.fault = (_, response) => !!response.writeHead(200, { "content-type": "text/html" }).end("<html>")
    expect(await codeOf(() => pull(registry))).toBe("media-type")
  })

  test("I8: a manifest that is not what its tag's digest says", async () => {
    await using registry = await TestRegistry.start()
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
