import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import { configOf, pull, TestClock, TestRegistry, testClient } from "../test-support/test-registry.js"
import { endpointsOf, type HostSettings, isLoopback, maySendOn } from "./hosts.js"
import { isTrustedRealm } from "./realm.js"
import { loadRegistryHosts } from "./registries-file.js"

const PEM = "-----BEGIN CERTIFICATE-----\n"

function load(content: unknown) {
  const folder = temporaryFolder()
  writeFileSync(join(folder, "ca.pem"), PEM)
  const path = join(folder, "registries.json")
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content))
  return loadRegistryHosts(path)
}

describe("loadRegistryHosts", () => {
  test("reads every setting", () => {
    const settings = {
      plainHttp: false,
      skipVerify: true,
      headers: { "x-a": "b" },
      mirrors: [{ url: "https://mirror.example:8443", pullByDigestOnly: true }],
      tokenHosts: ["login.example"],
      proxy: "http://u:p@proxy.example:3128",
    }
    const config = load({
      hosts: { "a.example:5000": { ...settings, ca: "ca.pem" } },
      default: { ca: "ca.pem", proxy: false },
    })
    expect(config).toEqual(
      new Map<string, object>([
        ["a.example:5000", { ...settings, ca: PEM }],
        ["*", { ca: PEM, proxy: false }],
      ]),
    )
  })

  test("a file that is not there says nothing", () => {
    expect(loadRegistryHosts("/nonexistent/registries.json")).toEqual(new Map())
  })

  test.each([
    ["an unknown key", { host: {} }, "host"],
    ["an unknown setting", { hosts: { a: { plainHTTP: true } } }, "hosts.a"],
    [
      "an unknown setting of a mirror",
      { hosts: { a: { mirrors: [{ url: "https://m", x: 1 }] } } },
      "mirrors[0]",
    ],
    ["a default that would open everything", { default: { skipVerify: true } }, "skipVerify"],
    ["hosts that are none", { hosts: [] }, "hosts"],
    ["a host that is none", { hosts: { "https://a": {} } }, "https://a"],
    ["a flag of text", { hosts: { a: { plainHttp: "yes" } } }, "plainHttp"],
    ["a mirror with a path", { hosts: { a: { mirrors: [{ url: "https://m/p" }] } } }, "url"],
    ["a mirror with a password", { hosts: { a: { mirrors: [{ url: "https://u:p@m" }] } } }, "url"],
    ["a proxy of another protocol", { hosts: { a: { proxy: "socks5://p" } } }, "proxy is a"],
    ["a proxy for all that is none", { default: { proxy: "http://" } }, "proxy is no"],
    ["a proxy that is a number", { hosts: { a: { proxy: 3128 } } }, "proxy"],
    ["a mirror of another protocol", { hosts: { a: { mirrors: [{ url: "ftp://m" }] } } }, "url"],
    ["a header of the client's", { hosts: { a: { headers: { Authorization: "x" } } } }, "Authorization"],
    ["a header with a line break", { hosts: { a: { headers: { x: "a\r\nb: c" } } } }, "headers"],
    ["a ca that is not there", { hosts: { a: { ca: "none.pem" } } }, "none.pem"],
  ])("refuses %s, and says where", async (_, content, where) => {
    expect(await codeOf(() => load(content))).toBe("registry-config")
    expect(() => load(content)).toThrow(where)
  })

  test("refuses what is no JSON", async () => {
    expect(await codeOf(() => load("{"))).toBe("json-invalid")
  })
})

describe("where a registry is", () => {
  const origins = (name: string, hosts: Record<string, HostSettings> = {}) =>
    endpointsOf(name, new Map(Object.entries(hosts))).map(({ origin }) => origin)

  test.each([
    ["docker.io", "https://registry-1.docker.io"],
    ["a.example:5000", "https://a.example:5000"],
    ["localhost:5000", "https://localhost:5000"],
    ["[::1]:5000", "https://[::1]:5000"],
  ])("I12: %s is at %s: nothing is plain HTTP by itself", (name, origin) => {
    expect(origins(name)).toEqual([origin])
  })

  test("plain HTTP is what the settings say, of one host or of all others", () => {
    expect(origins("a.example", { "a.example": { plainHttp: true } })).toEqual(["http://a.example"])
    expect(origins("b.example", { "*": { plainHttp: true } })).toEqual(["http://b.example"])
    expect(origins("b.example", { "b.example": {}, "*": { plainHttp: true } })).toEqual(["https://b.example"])
  })

  test("mirrors come first, in their order", () => {
    const mirrors = ["https://m1", { url: "http://m2:80" }]
    expect(origins("docker.io", { "docker.io": { mirrors } })).toEqual([
      ...["https://m1", "http://m2", "https://registry-1.docker.io"],
    ])
  })

  test.each([
    ["http://localhost", true],
    ["http://127.0.0.1:5000", true],
    ["http://[::1]", true],
    ["http://127.0.0.1.example", false],
    ["http://localhost.example", false],
    ["http://10.0.0.1", false],
  ])("%s is this machine: %s", (url, expected) => {
    expect(isLoopback(new URL(url))).toBe(expected)
  })

  test.each([
    ["https://a", "https://b", true],
    ["https://a", "http://a", false],
    ["https://a", "http://plain", false],
    ["http://a", "https://b", true],
    ["http://a", "http://a:81", true],
    ["http://a", "http://b", false],
    ["http://a", "http://plain", true],
    ["http://a", "http://127.0.0.1", false],
    ["http://127.0.0.1", "http://localhost", true],
    ["http://a", "file:///etc/passwd", false],
    ["https://a", "https://u:p@a", false],
  ])("I12: %s may send us on to %s: %s", (from, to, expected) => {
    const hosts = new Map([["plain", { plainHttp: true }]])
    expect(maySendOn(new URL(from), new URL(to), hosts)).toBe(expected)
  })

  test.each([
    ["docker.io", "auth.docker.io", true],
    ["registry.gitlab.com", "gitlab.com", true],
    ["a.example", "login.a.example", true],
    ["a.example", "a.example", true],
    ["a.example", "a.example:8443", true],
    ["a.example", "b.example", false],
    ["x.cloud.example", "y.cloud.example", false],
    ["a.example", "xa.example", false],
    ["a.example", "example", false],
    ["docker.io", "auth.docker.io.example", false],
    ["127.0.0.1", "127.0.0.2", false],
    ["127.0.0.1", "127.0.0.1:81", true],
    ["[::1]", "[::2]", false],
  ])("I11: a realm of %s at %s sees its credentials: %s", (name, realm, expected) => {
    const [endpoint] = endpointsOf(name, new Map())
    expect(endpoint && isTrustedRealm(new URL(`https://${realm}/token`), endpoint)).toBe(expected)
  })

  test("I11: tokenHosts are trusted besides", () => {
    const [endpoint] = endpointsOf("a.example", configOf({ "a.example": { tokenHosts: ["login.test"] } }))
    expect(endpoint && isTrustedRealm(new URL("https://login.test/x"), endpoint)).toBe(true)
    expect(endpoint && isTrustedRealm(new URL("https://x.login.test/x"), endpoint)).toBe(false)
  })
})

describe("mirrors", () => {
  test("are asked first; the registry is not asked at all", async () => {
    await using mirror = await TestRegistry.start()
    const hosts = configOf({ "registry.example": { mirrors: [{ url: `http://${mirror.host}` }] } })
    await using client = testClient({ hosts })
    expect(await pull(client, "registry.example/app:1")).toBe(mirror.digest)
  })

  test("that have nothing, or something else, are passed over", async () => {
    await using empty = await TestRegistry.start()
    await using liar = await TestRegistry.start()
    await using registry = await TestRegistry.start()
    empty.failAt("/v2/", response => response.writeHead(404).end())
    liar.failAt("/manifests/", (response, { method }, content) => {
      if (method === "HEAD") response.writeHead(405).end()
      else response.end(Buffer.from(content).fill(" ", 1, 2))
    })
    const mirrors = [empty, liar].map(({ host }) => ({ url: `http://${host}` }))
    await using client = testClient({ hosts: configOf({ [registry.host]: { mirrors } }) })
    expect(await pull(client, `${registry.host}/app@${registry.digest}`)).toBe(registry.digest)
    expect(liar.count("/manifests/")).toBeGreaterThan(0)
  })

  test("that are out of order get two tries, and then a rest", async () => {
    await using mirror = await TestRegistry.start()
    await using registry = await TestRegistry.start()
    mirror.failAt("/v2/", response => response.writeHead(503).end())
    const clock = new TestClock()
    const hosts = configOf({ [registry.host]: { mirrors: [{ url: `http://${mirror.host}` }] } })
    await using client = testClient({ hosts, clock })
    await pull(client, `${registry.host}/app:1`)
    expect(mirror.requests).toHaveLength(2)
    clock.advance(60_000)
    await pull(client, `${registry.host}/app:1`)
    expect(mirror.requests).toHaveLength(4)
  })

  test("for digests only do not say what a tag stands for", async () => {
    await using mirror = await TestRegistry.start()
    await using registry = await TestRegistry.start()
    const mirrors = [{ url: `http://${mirror.host}`, pullByDigestOnly: true }]
    await using client = testClient({ hosts: configOf({ [registry.host]: { mirrors } }) })
    await pull(client, `${registry.host}/app:1`)
    expect(mirror.count("/manifests/1", "HEAD")).toBe(0)
    expect(mirror.count(mirror.layerPath)).toBe(1)
    expect(registry.requests).toHaveLength(1)
  })
})
