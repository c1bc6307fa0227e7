import { describe, expect, test } from "vitest"
import { digestOf } from "../digest.js"
import { ImageError } from "../errors.js"
import { OCI_INDEX, OCI_MANIFEST } from "../spec/media-types.js"
import {
  imageAt,
  indexOf,
  PAYLOAD_TYPE,
  payloadOf,
  signatureOf,
  signatureTag,
  signed,
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
  withCritical,
} from "../test-support/signed-image.js"
import { CheckedSource } from "./index.js"

describe("an image is refused", () => {
  test("without a signature, saying how to make one", async () => {
    const refusal = await outcome(new TestSignatures())
    expect(refusal).toContain("policy-unsigned: registry.example/team/app:1 has no signature, which rule 1")
    expect(refusal).toContain(`cosign sign --key cosign.key ${NAME}@${DIGEST}`)
  })

  test("when nobody says where signatures are", async () => {
    const source = new CheckedSource({ policy: demanding([key]), reference: NAME, source: imageAt(DIGEST) })
    await expect(source.locate(OPTIONS)).rejects.toMatchObject({ code: "policy-unsigned" })
    expect(source.provenance).toBeUndefined()
  })

  test("with the signature of a wrong key", async () => {
    expect(await outcome(tagged(signed(stranger, NAME, DIGEST)))).toContain(
      "signature 1 is of none of the keys",
    )
  })

  test("with a tampered payload", async () => {
    const payload = payloadOf(NAME, OTHER)
    const tampered = signatureOf(payloadOf(NAME, DIGEST), key.sign(payload))
    expect(await outcome(tagged(tampered))).toContain("of none of the keys")
  })

  test("with any bit of the signature tampered", async () => {
    const payload = payloadOf(NAME, DIGEST)
    const bytes = Buffer.from(key.sign(payload), "base64")
    for (let bit = 0; bit < bytes.length * 8; bit += 7) {
      const wrong = Buffer.from(bytes)
      wrong.writeUInt8(wrong.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
      expect(await outcome(tagged(signatureOf(payload, wrong.toString("base64"))))).toContain(
        "none of the keys",
      )
    }
  })

  test("with another image's signature, as it is or under this image's tag", async () => {
    expect(await outcome(tagged(signed(key, NAME, OTHER)))).toContain(`is for ${OTHER}, another image`)
    const source = new TestSignatures()
    source.put(signatureTag(OTHER), [signed(key, NAME, OTHER)])
    expect(await outcome(source)).toContain("policy-unsigned")
  })

  test("with the signature of another repository", async () => {
    for (const name of [
      "registry.example/team/ap",
      "other.example/team/app",
      "registry.example/team",
      "",
      "é",
    ])
      expect(await outcome(tagged(signed(key, name, DIGEST)))).toContain("policy-signature")
  })

  test("with the signature of an index that does not lead to it", async () => {
    const alien = indexOf(OTHER)
    const source = new TestSignatures()
    source.put(signatureTag(digestOf(alien)), [signed(key, NAME, digestOf(alien))])
    expect(await outcome(source)).toContain("policy-unsigned")
    expect(await outcome(source, { indexes: [alien] })).toContain("policy-unsigned")
    const chain = [indexOf(digestOf(alien), OCI_INDEX), alien, indexOf(DIGEST)]
    expect(await outcome(source, { indexes: chain })).toContain("policy-unsigned")
  })

  test("I9: with a manifest that could be an index, or an index that could be a manifest", async () => {
    const source = new TestSignatures()
    source.put(signatureTag(DIGEST), [signed(key, NAME, DIGEST)], { manifests: [] })
    expect(await outcome(source)).toContain("does not belong into this document")
    source.put(signatureTag(DIGEST), [signed(key, NAME, DIGEST)], { mediaType: OCI_INDEX })
    expect(await outcome(source)).toContain("mediaType is another one")
    const both = JSON.parse(indexOf(DIGEST).toString())
    const index = Buffer.from(JSON.stringify({ ...both, layers: [] }))
    expect(await outcome(source, { indexes: [index] })).toContain("manifest-invalid")
  })

  test.each<[string, object, string]>([
    ["a type that is another", { type: "atomic container signature" }, "no image's signature"],
    ["a restriction that is not known", { until: 2030 }, "critical.until is unknown"],
    ["no image", { image: {} }, "has no docker-manifest-digest"],
    ["two images", { image: { "docker-manifest-digest": [DIGEST] } }, "is not a text"],
    ["a digest of another kind", { image: { "docker-manifest-digest": "sha512:00" } }, "not a sha256 digest"],
    ["no name", { identity: {} }, "has no docker-reference"],
    ["a name that is none", { identity: { "docker-reference": 7 } }, "is not a text"],
  ])("when the key's owner signed %s", async (_, critical, why) => {
    expect(await outcome(withCritical(critical))).toContain(why)
  })

  test("when a payload says two things", async () => {
    const text = payloadOf(NAME, DIGEST).toString()
    const payload = Buffer.from(text.replace('"critical":{', '"critical":{"type":"x",'))
    expect(await outcome(tagged(signatureOf(payload, key.sign(payload))))).toContain("is there twice")
  })

  test("when what was signed is no JSON, no UTF-8, or nothing", async () => {
    for (const payload of [Buffer.from("hello"), Buffer.from([0xff]), Buffer.alloc(0)])
      expect(await outcome(tagged(signatureOf(payload, key.sign(payload))))).toContain("policy-signature")
  })

  test.each(["", " ", "not base64", "AAA", "AAAA=", "AB==", `${"A".repeat(4100)}`, "AA_-", "AAAA\n"])(
    "with a signature that is %.20j",
    async text => {
      expect(await outcome(tagged(signatureOf(payloadOf(NAME, DIGEST), text)))).toContain("is no base64")
    },
  )

  test("with a good signature in another spelling of base64", async () => {
    const payload = payloadOf(NAME, DIGEST)
    expect(await outcome(tagged(signatureOf(payload, `${key.sign(payload)}\n`)))).toContain("no base64")
  })

  test("without the annotation", async () => {
    const bare = signatureOf(payloadOf(NAME, DIGEST), "", { annotations: {} })
    expect(await outcome(tagged(bare))).toContain("has no dev.cosignproject.cosign/signature")
  })

  test("I8: with a payload that is not what its descriptor says", async () => {
    const good = signed(key, NAME, DIGEST)
    const swapped = tagged(good)
    swapped.blobs.set(good.layer.digest, payloadOf(NAME, OTHER))
    expect(await outcome(swapped)).toContain("digest mismatch")
    const longer = tagged(
      signatureOf(good.payload, key.sign(good.payload), { size: good.payload.length - 1 }),
    )
    expect(await outcome(longer)).toContain("size mismatch")
  })

  test("with a huge payload, which is not even asked for", async () => {
    const good = signed(key, NAME, DIGEST)
    const source = tagged(signatureOf(good.payload, key.sign(good.payload), { size: 65 * 1024 }))
    expect(await outcome(source)).toContain("65536 is the most")
    expect(source.asked).toEqual([signatureTag(DIGEST)])
  })

  test("with payloads that are large together", async () => {
    const payload = Buffer.alloc(60 * 1024, 0x20)
    const many = Array.from({ length: 40 }, () => signatureOf(payload, key.sign(payload)))
    const source = tagged(...many)
    expect(await outcome(source)).toContain("and 32 more")
    expect(source.asked).toHaveLength(1 + 17)
  })

  test("with 1000 layers, or 65 signatures, whatever is among them", async () => {
    const good = signed(key, NAME, DIGEST)
    expect(await outcome(tagged(...new Array(1000).fill(good)))).toContain("1000 layers, more than 256")
    expect(await outcome(tagged(...new Array(65).fill(good)))).toContain("more than 64 signatures")
    expect(await outcome(tagged(...new Array(64).fill(good)))).toBe("accepted")
  })

  test("with more referrers than are read, or one that is another document", async () => {
    const source = new TestSignatures()
    const artifactType = PAYLOAD_TYPE
    const one = { mediaType: OCI_MANIFEST, digest: OTHER, size: 1, artifactType }
    source.list.push(one)
    source.manifests.set(OTHER, source.put("", [signed(key, NAME, DIGEST)]))
    expect(await outcome(source)).toContain("is another document")
    source.list.push(...new Array(16).fill(one))
    expect(await outcome(source)).toContain("more than 16 manifests of signatures")
  })

  test("with a list of reasons that does not grow with the signatures", async () => {
    const many = Array.from({ length: 64 }, () => signed(stranger, NAME, DIGEST))
    const refusal = await outcome(tagged(...many))
    expect(refusal).toContain("; and 56 more;")
    expect(refusal.length).toBeLessThan(1500)
  })

  test("with texts in which nothing moves the cursor", async () => {
    expect(await outcome(tagged(signed(key, "\u001b[2Jevil", DIGEST)))).toContain('"\\u001b[2Jevil"')
  })

  test("when its signatures cannot be asked for", async () => {
    const source = tagged(signed(key, NAME, DIGEST))
    source.failure = new ImageError("registry-unavailable", "registry.example does not answer")
    expect(await outcome(source)).toBe("registry-unavailable: registry.example does not answer")
  })

  test("when it is given up, with the signal's reason", async () => {
    const gone = new AbortController()
    const signatures = tagged(signed(key, NAME, DIGEST))
    signatures.fetchManifest = async () => {
      gone.abort(new Error("given up"))
      throw new ImageError("registry-not-found", "no")
    }
    const source = new CheckedSource({
      policy: demanding([key]),
      reference: NAME,
      source: imageAt(DIGEST),
      signatures,
    })
    await expect(source.locate({ ...OPTIONS, signal: gone.signal })).rejects.toThrow("given up")
  })
})
