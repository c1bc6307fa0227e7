// What a registry may do to a push, and what refers to an image; a whole registry is in test/interop.
import { createHash } from "node:crypto"
import type { IncomingMessage, ServerResponse } from "node:http"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { type Digest, digestOf } from "../digest.js"
import type { BlobSource } from "../sources/blob.js"
import { OCI_INDEX, OCI_MANIFEST } from "../spec/media-types.js"
import { codeOf } from "../test-support/images.js"
import { configOf, TestClock, TestRegistry, testClient } from "../test-support/test-registry.js"
import type { PushOptions } from "./push.js"
import type { RegistryClientOptions } from "./registry-client.js"

/** One request as it was when its body had come. */
interface Seen {
  readonly method: string
  readonly url: string
  readonly headers: IncomingMessage["headers"]
  readonly body: Buffer
}

type Answerer = (seen: Seen, response: ServerResponse) => boolean | undefined

let target: TestRegistry
let from: TestRegistry
let seen: Seen[]
let misbehave: Answerer

const digest = () => from.digest as Digest
const root = () => ({
  mediaType: OCI_MANIFEST,
  digest: digest(),
  size: from.content.get(`manifests/${from.digest}`)?.body.length ?? 0,
})
const blobs = (): BlobSource => ({
  async *open({ digest }) {
    const found = ["manifests", "blobs"].map(folder => from.content.get(`${folder}/${digest}`)).find(Boolean)
    for (let at = 0, body = found?.body ?? Buffer.alloc(0); at < body.length; at += 65_536)
      yield body.subarray(at, at + 65_536)
  },
})

beforeEach(async () => {
  target = await TestRegistry.start()
  from = new TestRegistry()
  target.content.clear()
  seen = []
  misbehave = () => false
  target.fault = (request, response) => {
    if (request.method === "HEAD" && !request.url?.includes("uploads")) return false
    void answer(request, response)
    return true
  }
})

afterEach(() => target[Symbol.asyncDispose]())

/** A registry that takes everything. */
async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = []
  try {
    for await (const chunk of request) chunks.push(chunk)
  } catch {
    return // broken off by the client
  }
  const { method = "", url = "", headers } = request
  const one = { method, url, headers, body: Buffer.concat(chunks) }
  seen.push(one)
  if (misbehave(one, response)) return
  const accepts = { POST: 202, PATCH: 202, PUT: 201 }[method] ?? 404
  response.writeHead(accepts, { location: "/v2/app/blobs/uploads/1?state=a%2Fb" }).end()
}

async function push(options: PushOptions = {}, client: RegistryClientOptions = {}, source = blobs()) {
  await using to = testClient(client)
  return await to.push(root(), source, `${target.host}/app:1`, options)
}

const puts = () => seen.filter(({ method, url }) => method === "PUT" && url.includes("/uploads/"))

describe("a push", () => {
  test("sends blobs in one piece, then the manifest", async () => {
    const result = await push()
    expect(result).toMatchObject({ digest: digest(), blobs: { uploaded: 2, present: 0, mounted: 0 } })
    for (const { url, body, headers } of puts()) {
      expect(Object.fromEntries(new URL(url, "http://x").searchParams)).toEqual({
        state: "a/b",
        digest: digestOf(body),
      })
      expect(headers["content-length"]).toBe(`${body.length}`)
    }
    expect(seen.at(-1)).toMatchObject({ method: "PUT", url: "/v2/app/manifests/1" })
    expect(digestOf(seen.at(-1)?.body ?? "")).toBe(digest())
  })

  test("sends in pieces what is not taken in one", async () => {
    misbehave = ({ method, body }, response) =>
      method === "PUT" && body.length > 100_000 && !!response.writeHead(413).end()
    expect(await push()).toMatchObject({ blobs: { uploaded: 2 } })
    const pieces = seen.filter(({ method }) => method === "PATCH")
    const whole = Buffer.concat(pieces.map(({ body }) => body))
    expect(digestOf(whole)).toBe(digestOf(from.layer))
    expect(pieces[0]?.headers["content-range"]).toBe(`0-${(pieces[0]?.body.length ?? 0) - 1}`)
    expect(puts().at(-1)?.body).toHaveLength(0)
  })

  test("pieces of which one is cut off begin again, a bounded number of times", async () => {
    let cuts = 2
    misbehave = ({ method, body }, response) => {
      if (method === "PUT" && body.length > 100_000) return !!response.writeHead(413).end()
      return method === "PATCH" && cuts-- > 0 && !!response.socket?.destroy()
    }
    expect(await push()).toMatchObject({ blobs: { uploaded: 2 } })
    const sent = seen.filter(({ method }) => method === "PATCH")
    expect(sent.map(({ headers }) => headers["content-range"]?.split("-")[0])).toEqual(["0", "0", "0"])
    expect(digestOf(sent.at(-1)?.body ?? "")).toBe(digestOf(from.layer))
    cuts = Number.POSITIVE_INFINITY
    seen = []
    expect(await codeOf(() => push({}, { attempts: 3 }))).toBe("registry-unavailable")
    expect(seen.filter(({ method }) => method === "PATCH")).toHaveLength(3)
  })

  test("begins again when the registry breaks down, a bounded number of times", async () => {
    let storm = 2
    misbehave = ({ method, url }, response) =>
      method === "PUT" && url.includes("/uploads/") && storm-- > 0 && !!response.writeHead(503).end()
    expect(await push()).toMatchObject({ blobs: { uploaded: 2 } })
    storm = Number.POSITIVE_INFINITY
    const clock = new TestClock()
    expect(await codeOf(() => push({}, { clock, attempts: 3 }))).toBe("registry-unavailable")
    expect(clock.sleeps.length).toBeGreaterThan(0)
  })

  test("I11: an upload to another host goes without credentials", async () => {
    await using other = await TestRegistry.start()
    const places: (string | undefined)[] = []
    other.fault = (request, response) => {
      places.push(request.headers.authorization)
      request.resume().on("end", () => response.writeHead(201).end())
      return true
    }
    misbehave = ({ method, headers }, response) => {
      if (!headers.authorization) return !!response.writeHead(401, { "www-authenticate": "Basic" }).end()
      return method === "POST" && !!response.writeHead(202, { location: `http://${other.host}/put` }).end()
    }
    await push({}, { credentials: async () => ({ username: "alice", password: "secret" }) })
    expect(places).toEqual([undefined, undefined])
  })

  test.each([
    ["nowhere", undefined, "registry-protocol"],
    ["no address", "http://[", "registry-protocol"],
    ["plain HTTP elsewhere", "http://files.example/x", "registry-insecure"],
    ["another protocol", "file:///etc/passwd", "registry-insecure"],
  ])("I12: an upload to %s is refused", async (_, location, code) => {
    misbehave = ({ method }, response) =>
      method === "POST" && !!response.writeHead(202, location === undefined ? {} : { location }).end()
    expect(await codeOf(push)).toBe(code)
  })

  test("I13: an upload that is redirected is not sent on", async () => {
    misbehave = ({ method }, response) =>
      method === "PUT" && !!response.writeHead(307, { location: "/elsewhere" }).end()
    expect(await codeOf(push)).toBe("registry-redirect")
    expect(seen.some(({ url }) => url.startsWith("/elsewhere"))).toBe(false)
  })

  test("I8: content that is not what it should be is broken off, and the name is not set", async () => {
    const layer = from.content.get(from.layerPath)
    if (layer)
      from.content.set(from.layerPath, { ...layer, body: Buffer.from(layer.body).fill("y", 9000, 9001) })
    expect(await codeOf(push)).toBe("digest-mismatch")
    expect(seen.some(({ url }) => url.includes("/manifests/"))).toBe(false)
  })

  test("asks for the right to write, and to read where layers are taken over from", async () => {
    const scopes: string[] = []
    const realm = () => `Bearer realm="http://${target.host}/token"`
    misbehave = ({ url, headers }, response) => {
      if (url.startsWith("/token")) {
        scopes.push(...new URL(url, "http://x").searchParams.getAll("scope"))
        return !!response.end('{"token":"t"}')
      }
      return !headers.authorization && !!response.writeHead(401, { "www-authenticate": realm() }).end()
    }
    await push({ mountFrom: ["base"] })
    expect(new Set(scopes)).toEqual(new Set(["repository:app:pull,push", "repository:base:pull"]))
  })

  test("a refusal says the registry's own word for it, and nothing else of it", async () => {
    const errors = [{ code: "QUOTA_EXCEEDED", message: "\u001b[31m please run this" }]
    misbehave = ({ method }, response) =>
      method === "POST" && !!response.writeHead(403).end(JSON.stringify({ errors }))
    const error = await push().catch(cause => cause)
    expect(error).toMatchObject({ code: "registry-denied", fields: { reason: "QUOTA_EXCEEDED" } })
    expect(error.message).not.toContain("please")
  })

  test("a registry that stores something else is told", async () => {
    misbehave = ({ url }, response) => {
      if (!url.includes("/manifests/")) return false
      const other = `sha256:${createHash("sha256").update("x").digest("hex")}`
      return !!response.writeHead(201, { "docker-content-digest": other }).end()
    }
    expect(await codeOf(push)).toBe("registry-protocol")
  })
})

describe("referrers", () => {
  const subject = `sha256:${"1".repeat(64)}`
  const entry = (name: string) => ({
    mediaType: OCI_MANIFEST,
    digest: digestOf(name),
    size: 1,
    artifactType: `type/${name}`,
  })
  const list = (...names: string[]) =>
    JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: names.map(entry) })

  async function referrers(artifactType?: string): Promise<(string | undefined)[]> {
    await using client = testClient({ hosts: configOf({}) })
    const found = await client.referrers(
      `${target.host}/app@${subject}`,
      artifactType ? { artifactType } : {},
    )
    return found.map(one => one.artifactType)
  }

  test("are listed, over several pages", async () => {
    misbehave = ({ url }, response) => {
      if (!url.startsWith(`/v2/app/referrers/${subject}`)) return false
      if (url.endsWith("?page=2")) return !!response.end(list("c"))
      const link = `</v2/app/referrers/${subject}?page=2>; rel="next"`
      return !!response.writeHead(200, { link }).end(list("a", "b"))
    }
    expect(await referrers()).toEqual(["type/a", "type/b", "type/c"])
    expect(await referrers("type/b")).toEqual(["type/b"])
  })

  test("are found by the tag that stands in for the list", async () => {
    misbehave = ({ url }, response) =>
      url === `/v2/app/manifests/${subject.replace(":", "-")}` && !!response.end(list("a"))
    expect(await referrers()).toEqual(["type/a"])
  })

  test.each([
    ["I13: pages without end", { link: `</v2/app/referrers/x>; rel="next"` }, () => list("a"), "limit"],
    [
      "I12: a page of another protocol",
      { link: `<file:///x>; rel="next"` },
      () => list("a"),
      "registry-insecure",
    ],
    ["I9: what is no index", {}, () => "{}", "manifest-invalid"],
    ["I9: more than can be meant", {}, () => list(...Array.from({ length: 1001 }, String)), "limit"],
  ])("%s are refused", async (_, headers, body, code) => {
    misbehave = ({ url }, response) =>
      url.startsWith("/v2/app/referrers/") && !!response.writeHead(200, headers).end(body())
    expect(await codeOf(() => referrers())).toBe(code)
  })

  test("belong to a digest", async () => {
    await using client = testClient()
    expect(await codeOf(() => client.referrers("registry.example/app:1"))).toBe("reference-invalid")
  })
})
