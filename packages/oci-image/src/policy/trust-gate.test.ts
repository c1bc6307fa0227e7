import { existsSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import { packImage } from "../pack/pack-image.js"
import { LayoutFolder, LayoutSource } from "../sources/layout.js"
import { ImageStore } from "../store/store.js"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import { policyOf, signatureTag, signed, TestKey, TestSignatures } from "../test-support/policies.js"
import { ALLOW_ALL, type Policy, TrustGate } from "./index.js"

const NAME = "registry.example/team/app:1"
const key = new TestKey()

async function setUp() {
  const folder = temporaryFolder()
  const layout = join(folder, "image")
  const { digest } = await packImage(layout, { layers: [{ files: [{ path: "hello", content: "hi" }] }] })
  const store = await ImageStore.open(join(folder, "store"))
  const signatures = new TestSignatures()
  signatures.put(signatureTag(digest), [signed(key, "registry.example/team/app", digest)])
  const trust = join(folder, "trust")
  const gate = (policy: Policy) => new TrustGate(policy, trust)
  const open = async () => new LayoutSource(await LayoutFolder.open(layout))
  const load = async (policy: Policy, name = NAME) => {
    await using source = new LayoutSource(await LayoutFolder.open(layout))
    return await gate(policy).load(store, { name, source, signatures })
  }
  return { digest, store, load, gate, trust, open, signatures }
}

function demanding(images = "registry.example/*", more: object = {}): Policy {
  const rules = [{ images, signedBy: { keys: [key.pem] } }]
  return policyOf({ default: "allow", rules, ...more })
}

describe("a gate", () => {
  test("lets in what is signed, and lets it run from then on", async () => {
    const { load, gate, store, digest } = await setUp()
    const image = await load(demanding())
    expect(image.digest).toBe(digest)
    await gate(demanding()).admit(image, [NAME])
    expect((await store.get(NAME))?.digest).toBe(digest)
  })

  test("keeps out what is not, whole", async () => {
    const { load, store, trust } = await setUp()
    const stranger = policyOf({
      default: "allow",
      rules: [{ images: "registry.example/*", signedBy: { keys: [new TestKey().pem] } }],
    })
    expect(await codeOf(() => load(stranger))).toBe("policy-signature")
    expect(await store.list()).toEqual([])
    expect(existsSync(trust)).toBe(false)
  })

  test("without a policy keeps nothing, and asks nothing", async () => {
    const { load, gate, trust } = await setUp()
    await gate(ALLOW_ALL).admit(await load(ALLOW_ALL), [NAME])
    expect(existsSync(trust)).toBe(false)
  })

  test("lets others bring an image in, and keeps what proves it", async () => {
    const { open, gate, store, signatures } = await setUp()
    await using inner = await open()
    const source = gate(demanding()).source({ source: inner, reference: NAME, signatures })
    const image = await store.load(source)
    expect(await codeOf(() => gate(demanding()).admit(image, [NAME]))).toBe("policy-unsigned")
    await gate(demanding()).keep(source)
    await gate(demanding()).admit(image, [NAME])
  })

  test("that gets stricter asks for a new pull, after which the image runs", async () => {
    const { load, gate } = await setUp()
    const image = await load(ALLOW_ALL)
    expect(await codeOf(() => gate(demanding()).admit(image, [NAME]))).toBe("policy-unsigned")
    await load(demanding())
    await gate(demanding()).admit(image, [NAME])
  })

  test("does not forget signatures when the image comes in by another name", async () => {
    const { load, gate } = await setUp()
    const image = await load(demanding())
    await load(demanding(), "copy.example/app")
    await gate(demanding()).admit(image, [NAME])
    await gate(demanding()).admit(image, ["copy.example/app"])
  })

  test("makes a damaged record anew", async () => {
    const { load, gate, trust } = await setUp()
    const image = await load(demanding())
    writeFileSync(join(trust, image.digest.slice(7), "provenance.json"), "{")
    expect(await codeOf(() => gate(demanding()).admit(image, [NAME]))).toBe("store-corrupt")
    await load(demanding())
    await gate(demanding()).admit(image, [NAME])
  })

  test("lets the program look only into what the rules allow, and keeps its verdict", async () => {
    const { load, gate, trust } = await setUp()
    const scan = { command: "/bin/sh", args: ["-c", 'echo "$TS_VMM_IMAGE" >&2; exit 1'] }
    const image = await load(demanding())
    const denied = policyOf({ default: "deny", scan })
    expect(await codeOf(() => gate(denied).admit(image, [NAME]))).toBe("policy-denied")
    expect(readdirSync(join(trust, image.digest.slice(7)))).toEqual(["provenance.json"])
    const refused = gate(demanding(undefined, { scan })).admit(image, [NAME])
    await expect(refused).rejects.toMatchObject({ code: "scan-refused", fields: { reason: NAME } })
    expect(readdirSync(join(trust, image.digest.slice(7)))).toHaveLength(2)
  })
})

describe("a root that is no image", () => {
  const admit = (policy: Policy) =>
    codeOf(() => new TrustGate(policy, "unused").admitRoot("the folder /srv/root"))

  test("runs where the default allows, whatever the rules are", async () => {
    expect(await admit(ALLOW_ALL)).toBeUndefined()
    expect(await admit(demanding())).toBeUndefined()
  })

  test("is refused where the default denies, or where a program looks into images", async () => {
    expect(await admit(policyOf({ default: "deny", rules: [{ images: "debian", action: "allow" }] }))).toBe(
      "policy-denied",
    )
    expect(await admit(policyOf({ default: "allow", rules: [], scan: { command: "/bin/true" } }))).toBe(
      "scan-refused",
    )
  })
})
