import { join } from "node:path"
import { describe, expect, test } from "vitest"
import { digestOf } from "../digest.js"
import type { ImageError } from "../errors.js"
import { parseReference } from "../references.js"
import { OCI_INDEX, OCI_MANIFEST } from "../spec/media-types.js"
import { ImageStore } from "../store/store.js"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import {
  indexOf,
  policyOf,
  signatureManifest,
  signatureTag,
  signed,
  TestKey,
  type TestSignature,
} from "../test-support/policies.js"
import { TestRegistry, testClient } from "../test-support/test-registry.js"
import { admitStored, CheckedSource, encodeProvenance, type Policy, registrySignatures } from "./index.js"

const key = new TestKey()

function putSignatures(registry: TestRegistry, name: string, ...signatures: TestSignature[]): Buffer {
  const body = signatureManifest(signatures)
  for (const path of [name, digestOf(body)])
    registry.content.set(`manifests/${path}`, { body, type: OCI_MANIFEST })
  for (const { payload, layer } of signatures)
    registry.content.set(`blobs/${layer.digest}`, { body: payload, type: "application/octet-stream" })
  return body
}

function demanding(registry: TestRegistry): Policy {
  const rules = [{ images: `${registry.host}/*`, signedBy: { keys: [key.pem] } }]
  return policyOf({ default: "deny", rules })
}

/** Pulls `app:TAG` into a new store by the policy. */
async function pull(registry: TestRegistry, tag = "1") {
  const reference = parseReference(`${registry.host}/app:${tag}`)
  const policy = demanding(registry)
  await using client = testClient()
  await using source = new CheckedSource({
    policy,
    reference,
    source: client.source(reference),
    signatures: registrySignatures(client, reference),
  })
  const store = await ImageStore.open(join(temporaryFolder(), "store"))
  const image = await store.load(source)
  const record = source.provenance && encodeProvenance(source.provenance)
  return { image, record, policy, reference }
}

async function refusal(registry: TestRegistry, tag?: string): Promise<ImageError> {
  const error = await pull(registry, tag).catch(reason => reason)
  expect(await codeOf(() => Promise.reject(error))).toBeDefined()
  return error
}

describe("a pull by a policy", () => {
  test("asks once what the name stands for, and gives a record that admits the image offline", async () => {
    await using registry = await TestRegistry.start()
    putSignatures(
      registry,
      signatureTag(registry.digest),
      signed(key, `${registry.host}/app`, registry.digest),
    )
    const { image, record, policy, reference } = await pull(registry)
    expect(image.digest).toBe(registry.digest)
    expect(registry.requests.filter(one => one.url?.endsWith("/manifests/1"))).toHaveLength(1)
    admitStored(policy, { names: [reference], digest: image.digest, record })
    expect(await codeOf(() => admitStored(policy, { names: [reference], digest: image.digest }))).toBe(
      "policy-unsigned",
    )
  })

  test("takes a signature of the index that the tag names", async () => {
    await using registry = await TestRegistry.start()
    const index = indexOf(registry.digest, OCI_MANIFEST, registry.content.get("manifests/1")?.body.length)
    registry.content.set("manifests/all", { body: index, type: OCI_INDEX })
    registry.content.set(`manifests/${digestOf(index)}`, { body: index, type: OCI_INDEX })
    const signature = signed(key, `${registry.host}/app`, digestOf(index))
    putSignatures(registry, signatureTag(digestOf(index)), signature)
    const { image, record, policy, reference } = await pull(registry, "all")
    expect(image.digest).toBe(registry.digest)
    admitStored(policy, { names: [reference], digest: image.digest, record })
  })

  test.each(["referrers/", "manifests/"])("takes what refers to the image, from %s", async where => {
    await using registry = await TestRegistry.start()
    const body = putSignatures(registry, "x", signed(key, `${registry.host}/app`, registry.digest))
    const artifactType = "application/vnd.dev.cosign.artifact.sig.v1+json"
    const entry = { mediaType: OCI_MANIFEST, digest: digestOf(body), size: body.length, artifactType }
    const list = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [entry] }))
    const name = where === "referrers/" ? registry.digest : registry.digest.replace(":", "-")
    registry.content.set(`${where}${name}`, { body: list, type: OCI_INDEX })
    expect((await pull(registry)).image.digest).toBe(registry.digest)
  })

  test("does not need a registry that lists what refers to images", async () => {
    await using registry = await TestRegistry.start()
    putSignatures(
      registry,
      signatureTag(registry.digest),
      signed(key, `${registry.host}/app`, registry.digest),
    )
    registry.failAt("/referrers/", response => response.writeHead(405).end())
    expect((await pull(registry)).image.digest).toBe(registry.digest)
  })

  test("loads nothing of an image without a signature", async () => {
    await using registry = await TestRegistry.start()
    expect((await refusal(registry)).code).toBe("policy-unsigned")
    expect(registry.count("/blobs/")).toBe(0)
  })

  test("loads nothing of an image with another one's signature", async () => {
    await using registry = await TestRegistry.start()
    const other = digestOf("another image")
    putSignatures(registry, signatureTag(registry.digest), signed(key, `${registry.host}/app`, other))
    expect((await refusal(registry)).message).toContain("another image")
  })

  test("refuses when the signatures' payloads are gone", async () => {
    await using registry = await TestRegistry.start()
    const signature = signed(key, `${registry.host}/app`, registry.digest)
    putSignatures(registry, signatureTag(registry.digest), signature)
    registry.content.delete(`blobs/${signature.layer.digest}`)
    const error = await refusal(registry)
    expect([error.code, error.message]).toEqual(["policy-signature", expect.stringContaining("signature 1")])
  })

  test("I13: refuses when the registry has trouble with the signatures, and says so", async () => {
    await using registry = await TestRegistry.start()
    registry.fault = ({ url }, response) => !!url?.includes(".sig") && !!response.writeHead(500).end()
    const error = await refusal(registry)
    expect(error.code).toMatch(/^registry-/)
    expect(error.message).toContain("cannot be read")
    expect(registry.count("/blobs/")).toBe(0)
  })

  test("I11: refuses when the registry does not let anybody see the signatures", async () => {
    await using registry = await TestRegistry.start()
    registry.fault = ({ url }, response) => !!url?.includes(".sig") && !!response.writeHead(403).end()
    expect((await refusal(registry)).code).toBe("registry-denied")
  })

  test("I9: refuses a manifest of signatures that is too long, whatever was said of it", async () => {
    await using registry = await TestRegistry.start()
    registry.failAt(".sig", response => {
      response.writeHead(200, { "content-type": OCI_MANIFEST })
      response.end(Buffer.alloc(3 * 1024 * 1024, 0x20))
    })
    expect((await refusal(registry)).message).toContain("1048576")
  })
})
