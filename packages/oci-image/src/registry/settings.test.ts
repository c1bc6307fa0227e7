import { chmodSync, writeFileSync } from "node:fs"
import { delimiter, join } from "node:path"
import { describe, expect, test, vi } from "vitest"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import { isSameSite } from "./authorizer.js"
import { parseChallenges } from "./challenge.js"
import { dockerCredentials } from "./credentials.js"
import { endpointsOf, loadRegistryHosts } from "./hosts.js"
import { retryAfter } from "./transport.js"

function fileWith(content: unknown, name = "config.json"): string {
  const path = join(temporaryFolder(), name)
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content))
  return path
}

describe("challenges", () => {
  test("are read with their parameters, several of them, whatever the case", () => {
    const header = 'Basic realm="a, \\"b\\"", BEARER Realm="https://x/t",service=plain'
    expect(parseChallenges(header).map(one => [one.scheme, Object.fromEntries(one.parameters)])).toEqual([
      ["basic", { realm: 'a, "b"' }],
      ["bearer", { realm: "https://x/t", service: "plain" }],
    ])
  })

  test("I11: what cannot be read ends the list, and a flood of it is cut", () => {
    expect(parseChallenges('Basic, =, "')).toHaveLength(1)
    expect(parseChallenges("")).toEqual([])
    expect(parseChallenges("Basic ".repeat(100_000)).length).toBeLessThanOrEqual(16)
  })
})

describe("the file of per-host settings", () => {
  test("says how a host is reached", () => {
    const ca = fileWith("PEM", "ca.pem")
    const path = fileWith({
      hosts: { "a.example": { ca, mirrors: ["https://m.example"] }, b: { plainHttp: true } },
    })
    const hosts = loadRegistryHosts(path)
    expect(endpointsOf("a.example", hosts)).toEqual([
      { origin: "https://m.example", isMirror: true, plainHttp: false },
      { origin: "https://a.example", isMirror: false, plainHttp: false, ca: "PEM" },
    ])
    expect(endpointsOf("b", hosts)).toEqual([{ origin: "http://b", isMirror: false, plainHttp: true }])
    expect(endpointsOf("docker.io", hosts)[0]?.origin).toBe("https://registry-1.docker.io")
  })

  test("need not be there", () => {
    expect(loadRegistryHosts(join(temporaryFolder(), "none.json")).size).toBe(0)
  })

  test.each([
    [{ hosts: { a: { plainHTTP: true } } }, "hosts.a.plainHTTP is no setting"],
    [{ hosts: { a: { plainHttp: "yes" } } }, "hosts.a.plainHttp is not true or false"],
    [{ hosts: { a: { mirrors: ["m.example"] } } }, "is no https://HOST[:PORT]"],
    [{ hosts: { a: { ca: "none.pem" } } }, "none.pem: is not there"],
    [{ hosts: [] }, "hosts is not an object"],
  ])("%j is refused", (content, why) => {
    expect(() => loadRegistryHosts(fileWith(content))).toThrow(why)
  })
})

describe("credentials", () => {
  const auth = Buffer.from("alice:a:b").toString("base64")

  test("of docker's file", async () => {
    const source = dockerCredentials(
      fileWith({ auths: { "r.example:5000": { auth }, "https://index.docker.io/v1/": { auth } } }),
    )
    expect(await source("r.example:5000")).toEqual({ username: "alice", password: "a:b" })
    expect(await source("docker.io")).toEqual({ username: "alice", password: "a:b" })
    expect(await source("other.example")).toBeUndefined()
    expect(await dockerCredentials(join(temporaryFolder(), "none"))("r")).toBeUndefined()
  })

  test("of a helper on the PATH, which says when it has none", async () => {
    const folder = temporaryFolder()
    const helper = join(folder, "docker-credential-test")
    const script =
      'read server; [ "$server" = r.example ] || { echo credentials not found in native keychain; exit 1; }'
    writeFileSync(helper, `#!/bin/sh\n${script}\necho '{"Username":"bob","Secret":"s"}'\n`)
    chmodSync(helper, 0o755)
    vi.stubEnv("PATH", `${folder}${delimiter}${process.env["PATH"]}`)
    const source = dockerCredentials(fileWith({ credsStore: "test" }))
    expect(await source("r.example")).toEqual({ username: "bob", password: "s" })
    expect(await source("other.example")).toBeUndefined()
    vi.unstubAllEnvs()
  })

  test.each([
    { credsStore: "../../bin/sh" },
    { credsStore: "is-not-installed" },
    { auths: { r: { auth: "bm9jb2xvbg==" } } },
    { auths: { r: 1 } },
  ])("I11: %j is refused, and nothing of it is run", async content => {
    expect(await codeOf(() => dockerCredentials(fileWith(content))("r"))).toBe("registry-config")
  })
})

test("Retry-After is seconds or a date, and nothing else", () => {
  const now = Date.parse("2026-01-01T00:00:00Z")
  const wait = (value: string) => retryAfter({ headers: { "retry-after": value } }, now)
  expect([wait("7"), wait("Thu, 01 Jan 2026 00:00:05 GMT"), wait("soon"), wait("-1")]).toEqual([
    7000, 5000, 0, 0,
  ])
  expect(retryAfter({ headers: {} })).toBe(0)
})

test.each([
  ["registry-1.docker.io", "auth.docker.io", true],
  ["gitlab.example", "gitlab.example", true],
  ["a.example.co.uk", "b.example.co.uk", true],
  ["a.co.uk", "b.co.uk", false],
  ["a.example", "b.other", false],
  ["10.0.0.1", "20.0.0.1", false],
  ["localhost", "127.0.0.1", false],
  ["docker.io.evil.example", "docker.io", false],
])("I11: %s and %s: one site is %s", (a, b, same) => {
  expect(isSameSite(new URL(`https://${a}`), new URL(`https://${b}`))).toBe(same)
})
