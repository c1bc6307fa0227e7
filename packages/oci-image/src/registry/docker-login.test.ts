import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import { inspect } from "node:util"
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest"
import { ownedName } from "../store/owner.js"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import { configOf, TestClock, TestRegistry } from "../test-support/test-registry.js"
import { dockerCredentials } from "./credentials.js"
import { DockerConfig, dockerConfigFile } from "./docker-config.js"
import { login, logout } from "./docker-login.js"

const encode = (text: string) => Buffer.from(text).toString("base64")

let folder: string
let path: string

beforeEach(() => {
  folder = temporaryFolder()
  path = join(folder, "config.json")
})

afterEach(() => vi.unstubAllEnvs())

const write = (content: unknown) => writeFileSync(path, JSON.stringify(content))

/** A credential helper `test`, a script that knows its verb as `$1` and has the input on stdin. */
function helper(script: string): void {
  const bin = join(folder, "bin")
  mkdirSync(bin)
  writeFileSync(join(bin, "docker-credential-test"), `#!/bin/sh\n${script}\n`)
  chmodSync(join(bin, "docker-credential-test"), 0o755)
  vi.stubEnv("PATH", `${bin}:${process.env["PATH"]}`)
}

describe("dockerCredentials", () => {
  test.each([
    ["a.example", "a.example"],
    ["docker.io", "https://index.docker.io/v1/"],
    ["a.example:5000", "https://a.example:5000/v1/"],
    ["a.example", "http://a.example"],
  ])("finds %s under %s", async (registry, key) => {
    write({ auths: { [key]: { auth: encode("alice:a:b") } } })
    expect(await dockerCredentials(path)(registry)).toEqual({ username: "alice", password: "a:b" })
    expect(await dockerCredentials(path)("b.example")).toBeUndefined()
  })

  test("knows identity tokens, and name and password apart", async () => {
    write({
      auths: { a: { identitytoken: "t", auth: encode("x:y") }, b: { username: "u", password: "p" }, c: {} },
    })
    const find = dockerCredentials(path)
    expect(await find("a")).toMatchObject({ identityToken: "t" })
    expect(await find("b")).toEqual({ username: "u", password: "p" })
    expect(await find("c")).toBeUndefined()
  })

  test("a file that is not there has none", async () => {
    expect(await dockerCredentials(path)("a.example")).toBeUndefined()
  })

  test.each([
    ["auths that are no user and password", { auths: { a: { auth: encode("nothing") } } }],
    ["an entry that is no object", { auths: { a: "x" } }],
    ["a helper with a path", { credsStore: "../../tmp/x" }],
    ["a helper with a space", { credsStore: "a b" }],
    ["a helper that is not there", { credsStore: "does-not-exist" }],
    ["helpers that are no map", { credHelpers: { a: 1 } }],
  ])("refuses %s", async (_, content) => {
    write(content)
    expect(await codeOf(() => dockerCredentials(path)("a"))).toBe("registry-config")
  })

  test("an inherited name is no entry", async () => {
    write({ auths: {}, credHelpers: {} })
    expect(await dockerCredentials(path)("constructor")).toBeUndefined()
  })

  test("asks the helper of the registry, then that of all", async () => {
    helper(`cat > ${folder}/asked; echo "$1" >> ${folder}/asked; echo '{"Username":"u","Secret":"s"}'`)
    write({ credsStore: "test", credHelpers: { "b.example": "missing" } })
    expect(await dockerCredentials(path)("docker.io")).toEqual({ username: "u", password: "s" })
    expect(readFileSync(join(folder, "asked"), "utf8")).toBe("https://index.docker.io/v1/get\n")
    expect(await codeOf(() => dockerCredentials(path)("b.example"))).toBe("registry-config")
  })

  test("a helper's token user means an identity token", async () => {
    helper(`echo '{"Username":"<token>","Secret":"s"}'`)
    write({ credsStore: "test" })
    expect(await dockerCredentials(path)("a")).toMatchObject({ identityToken: "s" })
  })

  test("a helper that has none says so in words", async () => {
    helper("echo credentials not found in native keychain; exit 1")
    write({ credsStore: "test" })
    expect(await dockerCredentials(path)("a")).toBeUndefined()
  })

  test.each([
    ["that fails", "echo secret-output; exit 2", "registry-config"],
    ["that says no JSON", "echo secret-output", "json-invalid"],
    ["that does not stop talking", "exec yes secret-output", "registry-config"],
  ])("I11: a helper %s is refused, and what it said is not told", async (_, script, code) => {
    helper(script)
    write({ credsStore: "test" })
    const error = await dockerCredentials(path)("a").catch(cause => cause)
    expect(error.code).toBe(code)
    expect(error.message).not.toContain("secret-output")
  })

  test("the file is where DOCKER_CONFIG says", () => {
    expect(dockerConfigFile({ DOCKER_CONFIG: "/x" })).toBe("/x/config.json")
    expect(dockerConfigFile({})).toMatch(/\/\.docker\/config\.json$/)
  })
})

describe("login and logout", () => {
  const alice = { username: "alice", password: "secret-password" }
  let registry: TestRegistry

  beforeEach(async () => {
    registry = await TestRegistry.start()
    registry.fault = (request, response) => {
      const isRight = request.headers.authorization === `Basic ${encode("alice:secret-password")}`
      response.writeHead(isRight ? 200 : 401, { "www-authenticate": "Basic realm=x" }).end()
      return true
    }
  })

  afterEach(() => registry[Symbol.asyncDispose]())

  const options = () => ({ configFile: path, clock: new TestClock(), hosts: configOf({}) })

  test("keep the rest of the file, and are for the owner's eyes only", async () => {
    write({ credHelpers: { x: "y" }, auths: { other: { auth: encode("a:b") } }, detachKeys: "ctrl-x" })
    chmodSync(path, 0o644)
    await login(registry.host, alice, options())
    expect(statSync(path).mode & 0o777).toBe(0o600)
    const before = {
      credHelpers: { x: "y" },
      detachKeys: "ctrl-x",
      auths: { other: { auth: encode("a:b") } },
    }
    const auths = { ...before.auths, [registry.host]: { auth: encode("alice:secret-password") } }
    expect(JSON.parse(readFileSync(path, "utf8"))).toEqual({ ...before, auths })
    expect(await dockerCredentials(path)(registry.host)).toEqual(alice)
    expect(await logout(registry.host, { configFile: path })).toBe(true)
    expect(JSON.parse(readFileSync(path, "utf8"))).toEqual(before)
    expect(await logout(registry.host, { configFile: path })).toBe(false)
    expect(readdirSync(folder)).toEqual(["config.json"])
  })

  test("several at once lose nothing, and leave nothing", async () => {
    write({ detachKeys: "ctrl-x" })
    const names = Array.from({ length: 12 }, (_, i) => `registry-${i}.example`)
    await Promise.all(names.map(name => DockerConfig.update(path, name, { auth: encode("a:b") })))
    await Promise.all(names.slice(6).map(name => logout(name, { configFile: path })))
    const left = Object.fromEntries(names.slice(0, 6).map(name => [name, { auth: encode("a:b") }]))
    expect(JSON.parse(readFileSync(path, "utf8"))).toEqual({ detachKeys: "ctrl-x", auths: left })
    expect(readdirSync(folder)).toEqual(["config.json"])
  })

  test("do not wait for one that was killed, and clean up behind it", async () => {
    const dead = `work-config.json-${ownedName().replace(/^\d+-\d+/, "1-1")}`
    writeFileSync(join(folder, dead), "")
    await login(registry.host, alice, options())
    expect(readdirSync(folder)).toEqual(["config.json"])
  })

  test("make the folder, which nobody else may look into", async () => {
    path = join(folder, "new", "config.json")
    await login(registry.host, alice, options())
    expect(statSync(join(folder, "new")).mode & 0o777).toBe(0o700)
  })

  test("write through a link to the file it leads to", async () => {
    const real = join(folder, "real.json")
    writeFileSync(real, "{}")
    symlinkSync(real, path)
    await login(registry.host, alice, options())
    expect(JSON.parse(readFileSync(real, "utf8")).auths).toHaveProperty([registry.host])
  })

  test("keep nothing that was not taken, and tell nothing of it", async () => {
    const error = await login(registry.host, { ...alice, password: "wrong-password" }, options()).catch(
      e => e,
    )
    expect(error.code).toBe("registry-unauthorized")
    expect(inspect(error, { depth: 20 })).not.toContain("wrong-password")
    expect(existsSync(path)).toBe(false)
  })

  test.each(["", "a:b"])("refuse the user name %j", async username => {
    expect(await codeOf(() => login(registry.host, { ...alice, username }, options()))).toBe(
      "registry-config",
    )
  })

  test("leave it to the helper where there is one", async () => {
    helper(`echo "$1" >> ${folder}/log; cat >> ${folder}/log`)
    write({ credsStore: "test" })
    await login(registry.host, alice, options())
    await logout(registry.host, { configFile: path })
    const stored = JSON.stringify({ ServerURL: registry.host, Username: "alice", Secret: alice.password })
    expect(readFileSync(join(folder, "log"), "utf8")).toBe(`store\n${stored}erase\n${registry.host}`)
    expect(readFileSync(path, "utf8")).not.toContain(encode("alice:secret-password"))
  })
})
