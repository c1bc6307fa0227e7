import { chmodSync, writeFileSync } from "node:fs"
import { delimiter, join } from "node:path"
import { describe, expect, test, vi } from "vitest"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import { dockerCredentials } from "./credentials.js"
import { retryAfter } from "./failures.js"

function fileWith(content: unknown, name = "config.json"): string {
  const path = join(temporaryFolder(), name)
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content))
  return path
}

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
