// Whom a client trusts, catalogue I12: nothing but what the system or the settings vouch for.
import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createServer as createHttpsServer } from "node:https"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, test } from "vitest"
import { codeOf } from "../test-support/images.js"
import { configOf, pull, TestRegistry, testClient } from "../test-support/test-registry.js"

const folder = mkdtempSync(join(tmpdir(), "oci-image-tls-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const openssl = (...args: string[]) => execFileSync("openssl", args, { cwd: folder, stdio: "ignore" })
const read = (name: string) => readFileSync(join(folder, name), "utf8")

function authority(name: string): void {
  const key = ["-newkey", "rsa:2048", "-nodes", "-keyout", `${name}.key`]
  openssl("req", "-x509", ...key, "-out", `${name}.pem`, "-days", "2", "-subj", `/CN=${name}`)
}

/** A certificate of `own`; `days` below zero has run out. */
function certificate(name: string, altName: string, days: number): void {
  openssl(
    "req",
    "-newkey",
    "rsa:2048",
    "-nodes",
    "-keyout",
    `${name}.key`,
    "-out",
    `${name}.csr`,
    "-subj",
    "/CN=x",
  )
  writeFileSync(join(folder, "san"), `subjectAltName=${altName}`)
  const signer = ["-CA", "own.pem", "-CAkey", "own.key", "-CAcreateserial", "-extfile", "san"]
  openssl("x509", "-req", "-in", `${name}.csr`, "-out", `${name}.pem`, "-days", `${days}`, ...signer)
}

authority("own")
authority("foreign")
certificate("right", "IP:127.0.0.1", 2)
certificate("expired", "IP:127.0.0.1", -1)
certificate("elsewhere", "DNS:registry.example", 2)

const serve = (name: string) =>
  TestRegistry.start(handler =>
    createHttpsServer({ key: read(`${name}.key`), cert: read(`${name}.pem`) }, handler),
  )

async function outcome(name: string, settings: object): Promise<string | undefined> {
  await using registry = await serve(name)
  await using client = testClient({ hosts: configOf({ [registry.host]: settings }) })
  return await codeOf(() => pull(client, `${registry.host}/app:1`))
}

describe("a registry with TLS", () => {
  test("I12: of the own authority is trusted", async () => {
    expect(await outcome("right", { ca: read("own.pem") })).toBeUndefined()
  })

  test.each([
    ["of an authority that nobody knows", "right", { plainHttp: false }],
    [
      "of another authority than the settings say",
      "right",
      {
        get ca() {
          return read("foreign.pem")
        },
      },
    ],
    ["that vouches for itself", "foreign", { plainHttp: false }],
    ["whose certificate has run out", "expired", { ca: read("own.pem") }],
    ["whose certificate is of another host", "elsewhere", { ca: read("own.pem") }],
  ])("I12: %s is refused, and asked once", async (_, name, settings) => {
    expect(await outcome(name, settings)).toBe("registry-tls")
  })

  test("I12: is believed whoever it is only where skipVerify says so", async () => {
    expect(await outcome("expired", { skipVerify: true })).toBeUndefined()
  })

  test("I12: where there is plain HTTP is no way back to that", async () => {
    await using registry = await TestRegistry.start()
    await using client = testClient({ hosts: configOf({ [registry.host]: { plainHttp: false } }) })
    expect(await codeOf(() => pull(client, `${registry.host}/app:1`))).toBe("registry-tls")
    expect(registry.requests).toEqual([])
  })

  test("I12: does not send us on to plain HTTP, not on its own host either", async () => {
    await using plain = await TestRegistry.start()
    await using registry = await serve("right")
    registry.failAt(registry.layerPath, response => {
      response.writeHead(307, { location: `http://${plain.host}/v2/app/${plain.layerPath}` }).end()
    })
    const hosts = configOf({ [registry.host]: { ca: read("own.pem") }, [plain.host]: { plainHttp: true } })
    await using client = testClient({ hosts })
    expect(await codeOf(() => pull(client, `${registry.host}/app:1`))).toBe("registry-insecure")
    expect(plain.requests).toEqual([])
  })

  test("I12: trust in one host is none in another that it redirects to", async () => {
    await using other = await serve("right")
    await using registry = await serve("right")
    registry.failAt(registry.layerPath, response => {
      response.writeHead(307, { location: `https://${other.host}/v2/app/${other.layerPath}` }).end()
    })
    const trusted = { ca: read("own.pem") }
    await using client = testClient({ hosts: configOf({ [registry.host]: trusted }) })
    expect(await codeOf(() => pull(client, `${registry.host}/app:1`))).toBe("registry-tls")
    const both = configOf({ [registry.host]: trusted, [other.host]: trusted })
    await using informed = testClient({ hosts: both })
    expect(await pull(informed, `${registry.host}/app:1`)).toBe(registry.digest)
  })
})
