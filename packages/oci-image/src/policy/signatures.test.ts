import { generateKeyPairSync } from "node:crypto"
import { describe, expect, test } from "vitest"
import { digestOf } from "../digest.js"
import { ImageError } from "../errors.js"
import { parseReference } from "../references.js"
import { OCI_INDEX, OCI_MANIFEST } from "../spec/media-types.js"
import {
  imageAt,
  indexOf,
  payloadOf,
  policyOf,
  signatureOf,
  signatureTag,
  signed,
  TestKey,
  TestSignatures,
} from "../test-support/policies.js"
import {
  DIGEST,
  demanding,
  key,
  NAME,
  OPTIONS,
  OTHER,
  outcome,
  stranger,
  tagged,
} from "../test-support/signed-image.js"
import { CheckedSource } from "./index.js"

describe("a signature is enough", () => {
  test("of the key that is asked for", async () => {
    expect(await outcome(tagged(signed(key, NAME, DIGEST)))).toBe("accepted")
  })

  test("of any one of the keys", async () => {
    const policy = demanding([stranger, key])
    expect(await outcome(tagged(signed(key, NAME, DIGEST)), { policy })).toBe("accepted")
  })

  test.each<[string, () => TestKey]>([
    ["RSA", () => new TestKey(generateKeyPairSync("rsa", { modulusLength: 2048 }))],
    ["RSA-PSS", () => new TestKey(generateKeyPairSync("rsa-pss", { modulusLength: 2048 }))],
    ["Ed25519", () => new TestKey(generateKeyPairSync("ed25519"))],
  ])("of a %s key", async (_, make) => {
    const [own, other] = [make(), make()]
    const policy = demanding([own])
    expect(await outcome(tagged(signed(own, NAME, DIGEST)), { policy })).toBe("accepted")
    expect(await outcome(tagged(signed(other, NAME, DIGEST)), { policy })).toContain("of none of the keys")
  })

  test("made by another program, of a key of its own (openssl dgst -sha256 -sign)", async () => {
    const pem = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEkFX7UP3XME0JP74sNTmV5MpaGbID
U3G1Fc760uRu81ulbPRV7nY3V6NVSmZOS2KShSCPo+4/ryimAML0RCZmkg==
-----END PUBLIC KEY-----`
    const text =
      "MEUCIQDhg2Ai4BoY8+lfeRFPC7e62iTRGR4y0l7IUZorUyhiLAIgQ2LeDh5Wp4C+QQKgq0Z1t0BxJ0cBK/r6xiPHlkxzzzM="
    const rules = [{ images: NAME, signedBy: { keys: [pem] } }]
    const source = tagged(signatureOf(payloadOf(NAME, DIGEST), text))
    expect(await outcome(source, { policy: policyOf({ default: "deny", rules }) })).toBe("accepted")
  })

  test("between bad ones and layers of other kinds", async () => {
    const good = signed(key, NAME, DIGEST)
    const alien = signatureOf(good.payload, "", { mediaType: "application/spdx+json", digest: "sha512:00" })
    const broken = signatureOf(good.payload, key.sign(good.payload), { digest: "sha512:00" })
    expect(await outcome(tagged(alien, broken, signed(stranger, NAME, DIGEST), good))).toBe("accepted")
  })

  test("with annotations of its maker", async () => {
    const json = JSON.parse(payloadOf(NAME, DIGEST).toString())
    const payload = Buffer.from(JSON.stringify({ ...json, optional: { creator: "ci", at: { build: 7 } } }))
    expect(await outcome(tagged(signatureOf(payload, key.sign(payload))))).toBe("accepted")
  })

  test("of the index that leads to the image, and of one above it", async () => {
    const inner = indexOf(DIGEST)
    const outer = indexOf(digestOf(inner), OCI_INDEX)
    const source = new TestSignatures()
    source.put(signatureTag(digestOf(outer)), [signed(key, NAME, digestOf(outer))])
    expect(await outcome(source, { indexes: [outer, inner] })).toBe("accepted")
  })

  test("that refers to the image (OCI 1.1)", async () => {
    const source = new TestSignatures()
    const document = source.put("", [signed(key, NAME, DIGEST)])
    const digest = digestOf(document)
    source.manifests.set(digest, document)
    const artifactType = "application/vnd.dev.cosign.artifact.sig.v1+json"
    const alien = { mediaType: OCI_MANIFEST, digest: OTHER, size: 1, artifactType: "application/spdx+json" }
    source.list.push(alien, { mediaType: OCI_MANIFEST, digest, size: document.length, artifactType })
    expect(await outcome(source)).toBe("accepted")
    expect(source.asked).not.toContain(OTHER)
  })

  test("under the tag, where what refers to an image cannot be asked for", async () => {
    const source = tagged(signed(key, NAME, DIGEST))
    source.referrers = () => Promise.reject(new ImageError("registry-protocol", "405"))
    expect(await outcome(source)).toBe("accepted")
    source.manifests.clear()
    expect(await outcome(source)).toMatch(/^policy-signature: .*405/)
  })

  test("for the repository, in docker's older spelling too", async () => {
    const policy = policyOf({ default: "deny", rules: [{ images: "debian", signedBy: { keys: [key.pem] } }] })
    const source = tagged(signed(key, "index.docker.io/library/debian", DIGEST))
    expect(await outcome(source, { policy, reference: "debian:12" })).toBe("accepted")
  })

  test("for the name that the rule says: another one, or any", async () => {
    const copy = tagged(signed(key, "upstream.example/app", DIGEST))
    const named = demanding([key], { signedAs: "upstream.example/app" })
    expect(await outcome(copy, { policy: named })).toBe("accepted")
    expect(await outcome(copy, { policy: demanding([key], { signedAs: "*" }) })).toBe("accepted")
    expect(await outcome(tagged(signed(key, NAME, DIGEST)), { policy: named })).toContain("policy-signature")
  })
})

describe("what is asked", () => {
  test("nothing of an image whose name is denied", async () => {
    let asked = 0
    const source = { ...imageAt(DIGEST), locate: async () => void asked++ as never }
    const policy = policyOf({ default: "deny" })
    const checked = new CheckedSource({ policy, reference: parseReference(NAME), source })
    await expect(checked.locate(OPTIONS)).rejects.toMatchObject({ code: "policy-denied" })
    expect(asked).toBe(0)
  })

  test("no signatures where a rule does not ask for any", async () => {
    const signatures = tagged(signed(key, NAME, DIGEST))
    const policy = policyOf({ default: "deny", rules: [{ images: NAME, digests: [DIGEST] }] })
    expect(await outcome(signatures, { policy })).toBe("accepted")
    expect(signatures.asked).toEqual([])
  })

  test("the digest that a rule lists: the manifest's or an index's", async () => {
    const index = indexOf(DIGEST)
    const listing = (digest: string) =>
      policyOf({ default: "allow", rules: [{ images: NAME, digests: [digest] }] })
    const signatures = new TestSignatures()
    expect(await outcome(signatures, { policy: listing(digestOf(index)), indexes: [index] })).toBe("accepted")
    expect(await outcome(signatures, { policy: listing(OTHER), indexes: [index] })).toContain("policy-digest")
  })
})
