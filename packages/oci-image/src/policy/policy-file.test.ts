import { generateKeyPairSync } from "node:crypto"
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import type { ImageError } from "../errors.js"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import { policyOf, TestKey } from "../test-support/policies.js"
import { ALLOW_ALL, loadPolicy, parsePolicy } from "./index.js"

const DIGEST = `sha256:${"a".repeat(64)}`
const RULE = { images: "debian", action: "allow" }

function refusalOf(document: object | string): string {
  try {
    policyOf(document)
  } catch (error) {
    expect((error as ImageError).code).toBe("policy-invalid")
    return (error as ImageError).message
  }
  return "accepted"
}

function writePolicy(document: object, folder = temporaryFolder()): string {
  const path = join(folder, "policy.json")
  writeFileSync(path, JSON.stringify(document))
  return path
}

function pemOf(type: "rsa" | "ed25519" | "ed448" | "ec" | "rsa-pss", options: object = {}): string {
  const pair = generateKeyPairSync(type as "rsa", options as { modulusLength: number })
  return pair.publicKey.export({ type: "spki", format: "pem" }) as string
}

describe("a policy file", () => {
  test("that is not there allows everything, unless somebody named it", async () => {
    const path = join(temporaryFolder(), "policy.json")
    expect(loadPolicy(path)).toBe(ALLOW_ALL)
    expect(await codeOf(() => loadPolicy(path, { required: true }))).toBe("policy-invalid")
  })

  test("has rules of every kind", () => {
    const folder = temporaryFolder()
    const key = new TestKey()
    writeFileSync(join(folder, "cosign.pub"), key.pem)
    const signedBy = { keys: ["cosign.pub", new TestKey().pem], signedAs: "docker.io/team/app" }
    const path = writePolicy(
      {
        default: "deny",
        rules: [
          RULE,
          { images: "registry.example/*", action: "deny" },
          { images: "registry.example:5000/team/*", digests: [DIGEST] },
          { images: "registry.example/app:1", signedBy },
        ],
        scan: { command: "/bin/scan", args: ["-v"], timeoutMs: 1000, env: { LEVEL: "high" } },
      },
      folder,
    )
    const policy = loadPolicy(path)
    expect(policy).toMatchObject({ file: path, default: "deny" })
    expect(policy.rules.map(rule => [rule.number, rule.images, rule.demand.kind])).toEqual([
      [1, "debian", "allow"],
      [2, "registry.example/*", "deny"],
      [3, "registry.example:5000/team/*", "digests"],
      [4, "registry.example/app:1", "signature"],
    ])
    expect(policy.rules[3]?.demand).toMatchObject({ signature: { keys: [{ name: "cosign.pub" }, {}] } })
    expect(policy.scan).toEqual({
      command: "/bin/scan",
      args: ["-v"],
      timeoutMs: 1000,
      env: { LEVEL: "high" },
    })
  })

  test("that is no readable regular file is refused: a folder, a device, a link to nothing", async () => {
    const folder = temporaryFolder()
    mkdirSync(join(folder, "folder"))
    symlinkSync("nowhere", join(folder, "link"))
    expect(await codeOf(() => loadPolicy(join(folder, "folder")))).toBe("policy-invalid")
    expect(await codeOf(() => loadPolicy("/dev/zero"))).toBe("policy-invalid")
    expect(await codeOf(() => loadPolicy(join(folder, "link")))).toBe("policy-invalid")
    expect(await codeOf(() => loadPolicy(join(writePolicy({ default: "allow" }), "below")))).toBe(
      "policy-invalid",
    )
  })

  test("of more than a megabyte is refused", async () => {
    const path = join(temporaryFolder(), "policy.json")
    writeFileSync(path, `{"default":"allow"}${" ".repeat(1024 * 1024)}`)
    expect(await codeOf(() => loadPolicy(path))).toBe("policy-invalid")
  })
})

describe("a document is refused, with its place,", () => {
  test.each([
    ["", "ends too early"],
    ["{", "missing"],
    ["[]", "is not an object"],
    ["null", "is not an object"],
    ["\ufeff{}", "not JSON"],
    ['{"default":"allow"} x', "has more behind its end"],
    ['{"default":"allow",}', "a name in quotes is missing"],
    ['{"default":"al\nlow"}', "not JSON"],
    ['{"default":"\\x61llow"}', "not JSON"],
    ['{"default":01}', "not JSON"],
    [`{"default":${"[".repeat(100_000)}`, "nested more than 16 deep"],
    ['{"rules":[]}', "has no default"],
    ['{"default":"maybe"}', 'neither "allow" nor "deny"'],
    ['{"default":true}', 'neither "allow" nor "deny"'],
    ['{"default":"allow","rule":[]}', "rule is unknown; there is: default, rules, scan"],
    ['{"default":"allow","__proto__":{}}', "__proto__ is unknown"],
    ['{"default":"allow","rules":{}}', "is not a list"],
  ])("%.40j", (document, why) => {
    expect(refusalOf(document)).toContain(why)
  })

  test("a key that is there twice, also in another spelling", () => {
    expect(refusalOf('{"default":"deny",\n"default":"allow"}')).toBe(
      "policy /etc/policy.json:2: default is there twice",
    )
    expect(refusalOf('{"default":"deny","\\u0064efault":"allow"}')).toContain("default is there twice")
  })

  test("bytes that are no UTF-8", () => {
    const bytes = Buffer.from('{"default":"\xff"}', "latin1")
    expect(() => parsePolicy(bytes, "policy.json")).toThrow("policy.json:1: is not UTF-8 text")
  })

  test.each<[object, string]>([
    [{}, "has no images"],
    [{ images: "debian" }, "needs one of action, digests and signedBy"],
    [{ images: "debian", action: "allow", digests: [DIGEST] }, "needs one of"],
    [{ images: "debian", action: "allow", sign: 1 }, "rules[0].sign is unknown"],
    [{ images: "*", action: "allow" }, "not an image name"],
    [{ images: "a/*/b", action: "allow" }, "not an image name"],
    [{ images: "Debian", action: "allow" }, "lower case"],
    [{ images: "a\u0000", action: "allow" }, "NUL"],
    [{ images: "a".repeat(600), action: "allow" }, "more than 512"],
    [{ images: `debian@${DIGEST}`, action: "allow" }, 'in "digests"'],
    [{ images: "debian", digests: [] }, "is empty"],
    [{ images: "debian", digests: ["sha256:AB"] }, "digests[0]: not a sha256 digest"],
    [{ images: "debian", digests: [DIGEST, DIGEST] }, "digests[1] is there twice"],
    [{ images: "debian", signedBy: {} }, "signedBy has no keys"],
    [{ images: "debian", signedBy: { keys: [] } }, "is empty"],
    [{ images: "debian", signedBy: { keys: "cosign.pub" } }, "is not a list"],
    [{ images: "debian", signedBy: { keys: [1] } }, "keys[0] is not a text"],
    [{ images: "debian", signedBy: { keys: ["nowhere.pub"] } }, "key file /etc/nowhere.pub is not there"],
    [{ images: "debian", signedBy: { keys: new Array(33).fill("x") } }, "more than 32"],
    [{ images: "debian", signedBy: { keys: ["x"], key: 1 } }, "key is unknown"],
  ])("rule %.60j", (rule, why) => {
    expect(refusalOf({ default: "allow", rules: [rule] })).toContain(why)
  })

  test("two rules for the same images, however they are spelled", () => {
    const twin = { images: "DOCKER.io/library/debian", action: "deny" }
    expect(refusalOf({ default: "allow", rules: [RULE, twin] })).toContain("same images as rule 1")
  })

  test("more than 1000 rules", () => {
    const rules = Array.from({ length: 1001 }, (_, i) => ({ images: `app${i}`, action: "allow" }))
    expect(refusalOf({ default: "allow", rules })).toContain("more than 1000")
  })

  test.each<[object, string]>([
    [{}, "has no command"],
    [{ command: "scan" }, "no absolute path"],
    [{ command: "/scan", args: "-v" }, "is not a list"],
    [{ command: "/scan", timeoutMs: 0 }, "no whole number"],
    [{ command: "/scan", timeoutMs: 1e12 }, "no whole number"],
    [{ command: "/scan", env: { "A=B": "x" } }, "no name of a variable"],
    [{ command: "/scan", env: { TS_VMM_DIGEST: "x" } }, "its own"],
    [{ command: "/scan", env: { A: "\u0000" } }, "NUL"],
    [{ command: "/scan", shell: true }, "unknown"],
  ])("scan %j", (scan, why) => {
    expect(refusalOf({ default: "allow", scan })).toContain(why)
  })

  test("names of its own choosing cannot move the cursor", () => {
    expect(refusalOf({ default: "allow", "\u001b[2J": 1 })).toContain('"\\u001b[2J" is unknown')
  })
})

describe("a key is refused when it", () => {
  const accept = (pem: string) =>
    refusalOf({ default: "deny", rules: [{ images: "app", signedBy: { keys: [pem] } }] })

  test("is fine: P-256, RSA, RSA-PSS, Ed25519", () => {
    expect(accept(new TestKey().pem)).toBe("accepted")
    expect(accept(pemOf("rsa", { modulusLength: 2048 }))).toBe("accepted")
    expect(accept(pemOf("rsa-pss", { modulusLength: 2048 }))).toBe("accepted")
    expect(accept(pemOf("ed25519"))).toBe("accepted")
  })

  test.each<[string, () => string, string]>([
    ["is a weak RSA key", () => pemOf("rsa", { modulusLength: 1024 }), "1024 bits: 2048 is the least"],
    ["is a weak RSA-PSS key", () => pemOf("rsa-pss", { modulusLength: 1024 }), "2048 is the least"],
    ["has a small exponent", () => pemOf("rsa", { modulusLength: 2048, publicExponent: 3 }), "exponent 3"],
    ["is on another curve", () => pemOf("ec", { namedCurve: "secp256k1" }), "not on P-256"],
    ["is of another kind", () => pemOf("ed448"), "kind ed448"],
    [
      "is private",
      () => generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }) as string,
      "private key",
    ],
    ["is cut", () => `${new TestKey().pem.slice(0, 60)}\n-----END PUBLIC KEY-----\n`, "damaged"],
    ["comes with another one", () => new TestKey().pem + new TestKey().pem, "not one PEM block"],
    ["is a certificate", () => "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----", "not one PEM"],
    ["is very long", () => `-----BEGIN PUBLIC KEY-----${"A".repeat(20_000)}`, "more than 16384"],
  ])("%s", (_, pem, why) => {
    expect(accept(pem())).toContain(why)
  })

  test("is in a file that is no key, too long, a folder, or may not be read", () => {
    const folder = temporaryFolder()
    mkdirSync(join(folder, "folder"))
    writeFileSync(join(folder, "long"), "x".repeat(20_000))
    writeFileSync(join(folder, "text"), "hello")
    for (const [name, why] of Object.entries({
      folder: "is no regular file",
      long: "larger than",
      text: "text is not one PEM block",
    })) {
      const rules = [{ images: "app", signedBy: { keys: [name] } }]
      const path = writePolicy({ default: "allow", rules }, folder)
      expect(() => loadPolicy(path)).toThrow(why)
    }
  })

  test("is in a file that cannot be read", () => {
    // A regular file of which every read fails, for root too.
    const rules = [{ images: "app", signedBy: { keys: ["/proc/self/mem"] } }]
    expect(refusalOf({ default: "allow", rules })).toContain("/proc/self/mem cannot be read (EIO)")
  })
})
