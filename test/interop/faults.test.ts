// Pulls from Debian's docker-registry through a proxy that misbehaves: each ends right or with one clear line, and the
// store is whole afterwards, so that the next pull gives the same disk as one that nothing ever happened to.
import { createHash } from "node:crypto"
import { lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import type { IncomingMessage } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  DEFAULT_LIMITS,
  hostPlatform,
  ImageStore,
  isImageError,
  openSource,
  packImage,
  type StoredImage,
} from "@ts-vmm/oci-image"
import { RegistryClient, type RegistryClientOptions } from "@ts-vmm/oci-image/registry"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { DockerRegistry } from "./docker-registry.js"
import * as faults from "./fault-proxy.js"
import { type Fault, FaultProxy } from "./fault-proxy.js"

const root = mkdtempSync(join(tmpdir(), "ts-vmm-faults-"))
/** Times that make trouble short; every other pull here has the default ones. An answer that is late is none of it. */
const HASTY = { attempts: 3, backoffMs: 5, maxBackoffMs: 20 }
/** The same for a pull whose trouble is that nothing comes, which only time can tell. */
const impatient = (times: number) => ({ ...HASTY, idleTimeoutMs: times > 1 ? 500 : 1000 })
const PLACES = ["question", "manifest", "config", "layer"] as const
type Place = (typeof PLACES)[number]

let registry: DockerRegistry
let proxy: FaultProxy
let other: FaultProxy
/** Digests of the image's parts. */
let parts: { readonly config: string; readonly layer: string }
let undisturbed: { digest: string; disk: string }
let folder: string

beforeAll(async () => {
  registry = await DockerRegistry.start({})
  parts = await publish()
  ;[proxy, other] = [await FaultProxy.start(registry.host), await FaultProxy.start(registry.host)]
  const image = await pull(await ImageStore.open(join(root, "undisturbed")))
  undisturbed = { digest: image.digest, disk: hashOf(image) }
})

afterAll(async () => {
  for (const one of [proxy, other, registry]) await one?.[Symbol.asyncDispose]()
  rmSync(root, { recursive: true, force: true })
})

beforeEach(() => {
  folder = mkdtempSync(join(root, "store-"))
})

afterEach(() => {
  for (const one of [proxy, other]) one.heal()
  rmSync(folder, { recursive: true, force: true })
})

/** Puts an image of two layers, one large and one small, into the registry. */
async function publish(): Promise<typeof parts> {
  const noise = Array.from({ length: 60_000 }, (_, i) =>
    createHash("sha256").update(`${i}`).digest("hex"),
  ).join("\n")
  const layers = [
    { files: [{ path: "noise", content: noise }] },
    { files: [{ path: "hello", content: "hi\n" }] },
  ]
  await packImage(join(root, "layout"), { layers, config: { cmd: ["/hello"] }, compression: "gzip" })
  const opened = await openSource(`oci:${join(root, "layout")}:latest`, DEFAULT_LIMITS)
  if (!("image" in opened)) throw new Error("the layout has no image")
  await using image = opened.image
  await using client = clientOf()
  const at = await image.locate({ platform: hostPlatform(), limits: DEFAULT_LIMITS })
  await client.push(at, image.blobs, `${registry.host}/app:1`)
  const manifest = JSON.parse(readFileSync(join(root, "layout/blobs/sha256", at.digest.slice(7)), "utf8"))
  return { config: manifest.config.digest, layer: manifest.layers[0].digest }
}

/** Whether a request is the one for some part of the image. */
const isAt =
  (place: Place) =>
  ({ method, url = "" }: IncomingMessage): boolean => {
    if (place === "question") return method === "HEAD" && url.includes("/manifests/")
    return method === "GET" && url.includes(place === "manifest" ? "/manifests/" : parts[place])
  }

function clientOf(options: RegistryClientOptions = {}): RegistryClient {
  return new RegistryClient({
    hosts: new Map([["*", { plainHttp: true }]]),
    credentials: async () => undefined,
    ...options,
  })
}

async function pull(store: ImageStore, options: RegistryClientOptions = {}): Promise<StoredImage> {
  await using client = clientOf(options)
  return await store.load(client.source(`${proxy.host}/app:1`))
}

/** Hash of the whole disk that a guest would see. */
function hashOf(image: StoredImage): string {
  const hash = createHash("sha256")
  for (const { path } of image.disk().parts) hash.update(readFileSync(path))
  return hash.digest("hex")
}

/** How a pull ends: `ok`, or the error's code, and a message that is one line. */
async function outcomeOf(store: ImageStore, options: RegistryClientOptions): Promise<string> {
  try {
    expect(hashOf(await pull(store, options))).toBe(undisturbed.disk)
    return "ok"
  } catch (error) {
    if (!isImageError(error)) throw error
    expect(error.message).toMatch(/^[\x20-\x7e]{10,300}$/)
    expect(error.message).toMatch(/127\.0\.0\.1|sha256:|the registry/)
    return error.code
  }
}

/** Everything in the store is accounted for, and nothing is under way. */
async function expectWhole(store: ImageStore): Promise<void> {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile())
  const sizes = files.map(({ parentPath, name }) => lstatSync(join(parentPath, name)).size)
  const usage = await store.diskUsage()
  expect(usage.total).toBe(sizes.reduce((sum, size) => sum + size, 0))
  expect(usage.temporary).toBe(0)
  expect(readdirSync(join(folder, "tmp"))).toEqual([])
  expect(readdirSync(join(folder, "leases"))).toEqual([])
}

/** Pulls into a new store while something is wrong, looks at the store, then pulls while nothing is. */
async function disturb(options: RegistryClientOptions = HASTY): Promise<string> {
  const store = await ImageStore.open(folder)
  const outcome = await outcomeOf(store, options)
  await expectWhole(store)
  expect(await store.list()).toHaveLength(outcome === "ok" ? 1 : 0)
  for (const one of [proxy, other]) one.heal()
  const image = await pull(store)
  expect({ digest: image.digest, disk: hashOf(image) }).toEqual(undisturbed)
  await expectWhole(store)
  return outcome
}

/** How a fault ends, when it happens once and when it never stops. */
interface Ends {
  readonly once: string
  readonly always: string
  /** For single parts of the image, where it is not so. */
  readonly but?: Partial<Record<Place, readonly [once: string, always: string]>>
}

const ends = (once: string, always: string, but: Ends["but"] = {}): Ends => ({ once, always, but })
/** A question has no body that anything could happen to. */
const NO_BODY = { question: ["ok", "ok"] } as const
const TOO_LONG = faults.lengthOff(1)
const BROKEN = ends("ok", "registry-unavailable")

const TABLE: readonly (readonly [string, Fault, Ends])[] = [
  ["I13: cut in the middle", faults.cutAfter(100), BROKEN],
  ["I13: cut before its last byte", faults.cutAfter(Number.MAX_SAFE_INTEGER), BROKEN],
  ["I13: reset in the middle", faults.cutAfter(100, "resetAndDestroy"), BROKEN],
  ["I13: reset before the answer", faults.reset, ends("ok", "registry-unavailable")],
  [
    "I13: announced too short",
    faults.lengthOff(-1),
    ends("size-mismatch", "size-mismatch", { question: ["limit", "limit"] }),
  ],
  // Nobody can tell a document that is announced too long from one whose end is late.
  [
    "I13: announced too long",
    TOO_LONG,
    ends("size-mismatch", "size-mismatch", { manifest: ["ok", "registry-timeout"] }),
  ],
  ["I8: of a wrong byte", faults.wrongByte, ends("digest-mismatch", "digest-mismatch", NO_BODY)],
  ["I13: that drips", faults.drip, ends("ok", "registry-timeout", NO_BODY)],
  ["I13: without an answer", faults.silence, ends("ok", "registry-timeout")],
  [
    "I13: answered 429 with Retry-After",
    faults.answer(429, { "retry-after": "1" }),
    ends("ok", "registry-rate-limited"),
  ],
  ["I13: answered 503", faults.answer(503), ends("ok", "registry-unavailable")],
  ["I13: without Content-Length", faults.withoutLength, ends("ok", "ok")],
  ["I13: that ends with its connection", faults.untilClosed, ends("ok", "ok")],
  ["I13: of garbage instead of HTTP", faults.garbage, ends("ok", "registry-protocol", NO_BODY)],
  [
    "I9: of a web page",
    faults.answer(200, { "content-type": "text/html" }, "<html>"),
    // A blob that is too short is asked for its rest.
    ends("digest-mismatch", "registry-unavailable", {
      ...NO_BODY,
      manifest: ["size-mismatch", "size-mismatch"],
    }),
  ],
  [
    "I13: that is gone",
    faults.answer(404),
    ends("registry-not-found", "registry-not-found", { question: ["ok", "ok"] }),
  ],
]
const CASES = TABLE.flatMap(([name, fault, { once, always, but }]) =>
  PLACES.flatMap(place => {
    const [first, last] = but?.[place] ?? [once, always]
    return [
      [name, place, "once", fault, 1, first] as const,
      [name, place, "always", fault, Number.POSITIVE_INFINITY, last] as const,
    ]
  }),
)

describe("a pull through a proxy that misbehaves", () => {
  test.each(CASES)("%s: the %s, %s", async (_, place, __, fault, times, expected) => {
    proxy.failAt(isAt(place), fault, times)
    const isMute =
      fault === faults.drip || fault === faults.silence || (fault === TOO_LONG && place === "manifest")
    expect(await disturb(isMute ? impatient(times) : HASTY)).toBe(expected)
  })

  test("I13: a storm of 503 over everything ends, and the pull goes on", async () => {
    let left = 2
    proxy.plan = () => (left-- > 0 ? faults.answer(503) : undefined)
    expect(await disturb()).toBe("ok")
  })

  test("I13: a storm of 503 that does not end is told after as many tries as were allowed", async () => {
    proxy.failAt(() => true, faults.answer(503))
    const store = await ImageStore.open(folder)
    expect(await outcomeOf(store, HASTY)).toBe("registry-unavailable")
    expect(proxy.requests).toHaveLength(HASTY.attempts)
    await expectWhole(store)
  })

  test("I13: every answer cut somewhere else still comes together", async () => {
    let at = 10_000
    proxy.plan = request => {
      if (!isAt("layer")(request) || at > 400_000) return undefined
      at *= 2
      return faults.cutAfter(at)
    }
    expect(await disturb()).toBe("ok")
  })

  test("I13: a layer on another host is fetched from there", async () => {
    proxy.failAt(isAt("layer"), faults.redirect(other.origin))
    expect(await disturb()).toBe("ok")
  })

  test("I13: a layer on another host that then fails there goes on", async () => {
    proxy.failAt(isAt("layer"), faults.redirect(other.origin))
    other.failAt(() => true, faults.cutAfter(5000), 1)
    expect(await disturb()).toBe("ok")
  })

  test.each(PLACES)("I13: a redirect in a circle: the %s", async place => {
    proxy.failAt(isAt(place), faults.redirect(other.origin))
    other.failAt(() => true, faults.redirect(proxy.origin))
    expect(await disturb()).toBe("registry-redirect")
  })

  test.each([
    ["nowhere", "http://["],
    ["a file", "file:///etc/passwd"],
    ["plain HTTP elsewhere", "http://files.invalid/"],
  ])("I13: a redirect to %s", async (_, location) => {
    const hosts = new Map([[proxy.host, { plainHttp: true }]])
    proxy.failAt(isAt("layer"), faults.answer(307, { location }))
    expect(await disturb({ ...HASTY, hosts })).toMatch(/^registry-(redirect|insecure)$/)
  })
})

describe("a pull with credentials", () => {
  const SECRET = "hunter2 of alice"
  const options = { ...HASTY, credentials: async () => ({ username: "alice", password: SECRET }) }
  const basic = faults.answer(401, { "www-authenticate": 'Basic realm="test"' })

  /** What the client said of itself, to each host. */
  const told = (to: FaultProxy) => new Set(to.requests.map(({ headers }) => headers.authorization))

  test("I11: a 401 that does not end is answered once", async () => {
    proxy.failAt(() => true, basic)
    const store = await ImageStore.open(folder)
    expect(await outcomeOf(store, options)).toBe("registry-unauthorized")
    expect(proxy.requests).toHaveLength(2)
    await expectWhole(store)
  })

  test("I11: a 401 with tokens that are never good is answered once", async () => {
    const realm = `Bearer realm="${proxy.origin}/token",service="test"`
    proxy.plan = ({ url }) =>
      url?.startsWith("/token")
        ? faults.answer(200, { "content-type": "application/json" }, '{"token":"t"}')
        : faults.answer(401, { "www-authenticate": realm })
    const store = await ImageStore.open(folder)
    expect(await outcomeOf(store, options)).toBe("registry-unauthorized")
    expect(proxy.requests).toHaveLength(3)
    await expectWhole(store)
  })

  test("I11: a 401 in the middle of a pull is answered anew", async () => {
    proxy.failAt(isAt("layer"), basic, 1)
    expect(await disturb(options)).toBe("ok")
  })

  test("I11: they do not go where a redirect leads, nor does a stranger's 401 get them", async () => {
    proxy.plan = request => {
      if (!request.headers.authorization) return basic
      return isAt("layer")(request) ? faults.redirect(other.origin) : undefined
    }
    const store = await ImageStore.open(folder)
    expect(await outcomeOf(store, options)).toBe("ok")
    expect(told(other)).toEqual(new Set([undefined]))
    await store.remove((await store.list())[0]?.image.digest ?? "")
    other.failAt(() => true, basic)
    expect(await outcomeOf(store, options)).toBe("registry-redirect")
    expect(told(other)).toEqual(new Set([undefined]))
    await expectWhole(store)
  })

  test("I11: a token is not fetched with them from a host that is not the registry's", async () => {
    const away = other.origin.replace("127.0.0.1", "localhost")
    proxy.failAt(() => true, faults.answer(401, { "www-authenticate": `Bearer realm="${away}/token"` }))
    other.failAt(() => true, faults.answer(401))
    const store = await ImageStore.open(folder)
    const error = await pull(store, options).catch((cause: unknown) => cause)
    expect(isImageError(error) && error.code).toBe("registry-unauthorized")
    expect(`${error}`).not.toContain("hunter2")
    expect(told(other)).toEqual(new Set([undefined]))
  })
})
