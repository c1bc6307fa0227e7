// Whom a client trusts, catalogue I12: nothing but what the system or the settings vouch for.
import { writeFileSync } from "node:fs"
import { createServer as createHttpsServer } from "node:https"
import type { TLSSocket } from "node:tls"
import { afterAll, describe, expect, test } from "vitest"
import { TestCertificates } from "../test-support/certificates.js"
import { codeOf } from "../test-support/images.js"
import { configOf, pull, TestRegistry, testClient } from "../test-support/test-registry.js"
import { connectionError } from "./failures.js"
import { loadRegistryHosts } from "./registries-file.js"

const certificates = new TestCertificates()
afterAll(() => certificates[Symbol.dispose]())
const read = (name: string) => certificates.read(name)

certificates.authority("own")
certificates.authority("foreign")
certificates.certificate("right", "own", "IP:127.0.0.1")
certificates.certificate("expired", "own", "IP:127.0.0.1", -1)
certificates.certificate("elsewhere", "own", "DNS:registry.example")
certificates.certificate("alice", "own", "DNS:alice")
certificates.certificate("mallory", "foreign", "DNS:mallory")

const serve = (name: string) =>
  TestRegistry.start(handler => createHttpsServer(certificates.pair(name), handler))

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

describe("a registry that wants to know the client", () => {
  const own = read("own.pem")
  const strict = () =>
    TestRegistry.start(handler =>
      createHttpsServer({ ...certificates.pair("right"), ca: own, requestCert: true }, handler),
    )

  async function outcomeFor(clientCertificate: object): Promise<string | undefined> {
    await using registry = await strict()
    const hosts = configOf({ [registry.host]: { ca: own, ...clientCertificate } })
    await using client = testClient({ hosts })
    return await codeOf(() => pull(client, `${registry.host}/app:1`))
  }

  test("is shown the certificate of the settings", async () => {
    expect(await outcomeFor({ clientCertificate: certificates.pair("alice") })).toBeUndefined()
  })

  test.each([
    ["none", {}],
    ["one of another authority", { clientCertificate: certificates.pair("mallory") }],
  ])("refuses %s", async (_, settings) => {
    // Node's server only hangs up.
    expect(await outcomeFor(settings)).toBe("registry-unavailable")
  })

  test.each(["ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED", "ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE"])(
    "may say so: %s",
    code => {
      const error = connectionError(new URL("https://a"), Object.assign(new Error(), { code }))
      expect(error.code).toBe("registry-tls")
      expect(error.message).toContain("a wants a client certificate")
    },
  )

  test("a host that it redirects to is shown nothing", async () => {
    const shown: (object | undefined)[] = []
    await using other = await TestRegistry.start(handler =>
      createHttpsServer(
        { ...certificates.pair("right"), ca: own, requestCert: true, rejectUnauthorized: false },
        (request, response) => {
          shown.push((request.socket as TLSSocket).getPeerCertificate())
          handler(request, response)
        },
      ),
    )
    await using registry = await strict()
    registry.failAt(registry.layerPath, response => {
      response.writeHead(307, { location: `https://${other.host}/v2/app/${other.layerPath}` }).end()
    })
    const clientCertificate = certificates.pair("alice")
    const hosts = configOf({ [registry.host]: { ca: own, clientCertificate }, [other.host]: { ca: own } })
    await using client = testClient({ hosts })
    expect(await pull(client, `${registry.host}/app:1`)).toBe(registry.digest)
    expect(shown).toEqual([{}])
  })

  test("the settings' file names the files, which have to be a pair", () => {
    const file = certificates.path("registries.json")
    const load = (settings: object) => {
      writeFileSync(file, JSON.stringify({ hosts: { a: settings } }))
      return loadRegistryHosts(file).get("a")
    }
    const pair = certificates.pair("alice")
    expect(load({ cert: "alice.pem", key: "alice.key" })).toEqual({ clientCertificate: pair })
    expect(() => load({ cert: "alice.pem" })).toThrow(/key .*is missing/)
    expect(() => load({ key: "alice.key" })).toThrow(/cert .*is missing/)
    expect(() => load({ cert: "alice.pem", key: "mallory.key" })).toThrow("is not the key of cert")
    expect(() => load({ cert: "alice.pem", key: "none.key" })).toThrow("is not there")
  })
})
