import { describe, expect, test } from "vitest"
import { type Digest, digestOf } from "../digest.js"
import { ImageError } from "../errors.js"
import { DEFAULT_LIMITS } from "../limits.js"
import { parseReference } from "../references.js"
import { OCI_MANIFEST } from "../spec/media-types.js"
import { hostPlatform } from "../spec/platform.js"
import { codeOf, TestLayout, temporaryFolder } from "../test-support/images.js"
import {
  imageAt,
  indexOf,
  payloadOf,
  policyOf,
  signatureManifest,
  signatureTag,
  signed,
  TestKey,
  type TestSignature,
} from "../test-support/policies.js"
import {
  ALLOW_ALL,
  admitStored,
  CheckedSource,
  decodeProvenance,
  encodeProvenance,
  layoutSignatures,
  mergeProvenance,
  type Policy,
  type Provenance,
} from "./index.js"

const DIGEST: Digest = digestOf("the image")
const NAME = "registry.example/team/app"
const key = new TestKey()
const payload = payloadOf(NAME, DIGEST)
const signature = Buffer.from(key.sign(payload), "base64")
const REFERENCE = parseReference(`${NAME}:1`)
const KEPT: Provenance = {
  digest: DIGEST,
  reference: REFERENCE,
  indexes: [],
  signatures: [{ payload, signature }],
}
const RECORD = encodeProvenance(KEPT)

function demanding(...keys: TestKey[]): Policy {
  const signedBy = { keys: keys.map(one => one.pem) }
  return policyOf({ default: "deny", rules: [{ images: "registry.example/*", signedBy }] })
}

function admit(policy: Policy, names: string[], record?: Uint8Array) {
  return codeOf(() => admitStored(policy, { names, digest: DIGEST, record }))
}

describe("an image of the store", () => {
  test("runs without a policy, whatever is kept", async () => {
    expect(await admit(ALLOW_ALL, [NAME], Buffer.from("damaged"))).toBeUndefined()
  })

  test("runs by the keys of now: not by one that left the policy", async () => {
    expect(await admit(demanding(key), [NAME], RECORD)).toBeUndefined()
    expect(await admit(demanding(new TestKey()), [NAME], RECORD)).toBe("policy-signature")
    expect(await admit(demanding(new TestKey(), key), [NAME], RECORD)).toBeUndefined()
  })

  test("runs by the rules of now", async () => {
    const rules = [{ images: NAME, action: "deny" }]
    expect(await admit(policyOf({ default: "allow", rules }), [NAME], RECORD)).toBe("policy-denied")
    expect(await admit(policyOf({ default: "allow", rules }), ["debian"], RECORD)).toBeUndefined()
  })

  test("does not run by its digest when one of its names is denied", async () => {
    const rules = [{ images: "evil.example/*", action: "deny" }]
    const policy = policyOf({ default: "allow", rules })
    expect(await admit(policy, ["good.example/app", "evil.example/app"])).toBe("policy-denied")
    expect(await admit(policy, ["good.example/app"])).toBeUndefined()
  })

  test("without a name is what it was brought in as; without that, what the default says", async () => {
    expect(await admit(demanding(key), [], RECORD)).toBeUndefined()
    expect(await admit(demanding(new TestKey()), [], RECORD)).toBe("policy-signature")
    expect(await admit(demanding(key), [])).toBe("policy-denied")
    expect(await admit(policyOf({ default: "allow" }), [])).toBeUndefined()
  })

  test("that was brought in before there was a policy has to be pulled again, and is told so", () => {
    const run = () => admitStored(demanding(key), { names: [NAME], digest: DIGEST })
    expect(run).toThrow(/has no signature.*pull it again/)
  })

  test("runs by an index that is kept with it, but by no other", async () => {
    const index = indexOf(DIGEST)
    const policy = policyOf({ default: "deny", rules: [{ images: NAME, digests: [digestOf(index)] }] })
    const keeping = (document: Buffer) => encodeProvenance({ ...KEPT, indexes: [document] })
    expect(await admit(policy, [NAME], keeping(index))).toBeUndefined()
    expect(await admit(policy, [NAME], RECORD)).toBe("policy-digest")
    expect(await admit(policy, [NAME], keeping(indexOf(digestOf("other"))))).toBe("policy-digest")
    expect(await admit(policy, [NAME], keeping(Buffer.from("{}")))).toBe("manifest-invalid")
  })
})

describe("a record", () => {
  test("comes back as it was", () => {
    const whole = { ...KEPT, indexes: [indexOf(DIGEST)] }
    expect(decodeProvenance(encodeProvenance(whole), DIGEST)).toEqual(whole)
    const bare = { digest: DIGEST, reference: undefined, indexes: [], signatures: [] }
    expect(decodeProvenance(encodeProvenance(bare), DIGEST)).toEqual(bare)
  })

  test("and another one of the same image become one, the newer first", () => {
    const indexes = [indexOf(DIGEST), indexOf(DIGEST, OCI_MANIFEST, 2)]
    const other = { payload: Buffer.from("other"), signature }
    const older = { ...KEPT, indexes, signatures: [other, ...KEPT.signatures] }
    const newer = { ...KEPT, reference: parseReference("new.example/app"), indexes: indexes.slice(1) }
    expect(mergeProvenance(older, newer)).toEqual({
      ...newer,
      indexes: indexes.toReversed(),
      signatures: [...KEPT.signatures, other],
    })
  })

  test("does not grow without end, and can be read when it is full", () => {
    const large = (fill: number) => Buffer.alloc(64 * 1024, fill)
    const full = (from: number): Provenance => ({
      ...KEPT,
      indexes: Array.from({ length: 16 }, (_, i) =>
        Buffer.concat([large(from + i), large(0), large(0), large(0)]),
      ),
      signatures: Array.from({ length: 16 }, (_, i) => ({ payload: large(from + i), signature })),
    })
    const digests = ({ indexes, signatures }: Provenance) => [
      indexes.map(document => digestOf(document)),
      signatures.map(one => digestOf(one.payload)),
    ]
    const merged = mergeProvenance(full(0), full(100))
    expect(digests(merged)).toEqual(digests(full(100)))
    expect(digests(decodeProvenance(encodeProvenance(merged), DIGEST))).toEqual(digests(merged))
  })

  test.each<[string, (record: Record<string, unknown>) => unknown]>([
    ["no object", () => []],
    ["another version", record => ({ ...record, version: 2 })],
    ["another image's", record => ({ ...record, digest: digestOf("other") })],
    ["too many indexes", record => ({ ...record, indexes: new Array(17).fill("AAAA") })],
    ["too many signatures", record => ({ ...record, signatures: new Array(65).fill({}) })],
    ["a signature without a payload", record => ({ ...record, signatures: [{ signature: "AAAA" }] })],
    ["no base64", record => ({ ...record, indexes: ["AAAA\n"] })],
    ["no name", record => ({ ...record, reference: "No Name" })],
    ["too large", record => ({ ...record, more: "x".repeat(8 * 1024 * 1024) })],
  ])("that is %s is damaged", async (_, change) => {
    const bytes = Buffer.from(JSON.stringify(change(JSON.parse(RECORD.toString()))))
    expect(await admit(demanding(key), [NAME], bytes)).toBe("store-corrupt")
  })

  test("with any byte changed lets nothing else run", () => {
    for (let at = 0; at < RECORD.length; at++) {
      const wrong = Buffer.from(RECORD)
      wrong.writeUInt8(wrong.readUInt8(at) ^ (1 << (at % 7)), at)
      try {
        admitStored(demanding(key), { names: [NAME], digest: DIGEST, record: wrong })
        // What still runs is what was signed.
        expect(decodeProvenance(wrong, DIGEST).signatures).toEqual(KEPT.signatures)
      } catch (error) {
        expect(error).toBeInstanceOf(ImageError)
      }
    }
  })
})

describe("signatures in an OCI image layout", () => {
  async function locate(layout: TestLayout): Promise<string> {
    await using signatures = await layoutSignatures(layout.path)
    const source = new CheckedSource({
      policy: demanding(key),
      reference: NAME,
      source: imageAt(DIGEST),
      signatures,
    })
    return (await source.locate({ platform: hostPlatform(), limits: DEFAULT_LIMITS })).digest
  }

  function layoutWith(annotations: object, ...all: TestSignature[]): TestLayout {
    const layout = new TestLayout(temporaryFolder())
    for (const one of all) layout.put("", one.payload)
    layout.index([{ ...layout.put(OCI_MANIFEST, signatureManifest(all)), annotations }])
    return layout
  }

  test.each<[string, object]>([
    ["named by their tag", { "org.opencontainers.image.ref.name": signatureTag(DIGEST) }],
    ["named in full", { "org.opencontainers.image.ref.name": `${NAME}:${signatureTag(DIGEST)}` }],
    ["marked as cosign does", { kind: "dev.cosignproject.cosign/sigs" }],
  ])("%s are found", async (_, annotations) => {
    expect(await locate(layoutWith(annotations, signed(key, NAME, DIGEST)))).toBe(DIGEST)
  })

  test("I15: under another image's name are not, and marked ones count for their own image only", async () => {
    const other = digestOf("other")
    const named = { "org.opencontainers.image.ref.name": signatureTag(other) }
    expect(await codeOf(() => locate(layoutWith(named, signed(key, NAME, DIGEST))))).toBe("policy-unsigned")
    const marked = { kind: "dev.cosignproject.cosign/sigs" }
    expect(await codeOf(() => locate(layoutWith(marked, signed(key, NAME, other))))).toBe("policy-signature")
  })

  test("that cannot be read are a refusal", async () => {
    const layout = new TestLayout(temporaryFolder())
    expect(await codeOf(() => locate(layout))).toBe("source-invalid")
    expect(await codeOf(() => layoutSignatures(`${layout.path}/nowhere`))).toBe("source-missing")
  })
})
