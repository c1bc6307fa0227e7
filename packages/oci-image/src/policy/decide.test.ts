import { describe, expect, test } from "vitest"
import type { Digest } from "../digest.js"
import { parseReference } from "../references.js"
import { policyOf, TestKey } from "../test-support/policies.js"
import { ALLOW_ALL, decide } from "./index.js"

const digest = (digit: string): Digest => `sha256:${digit.repeat(64)}`
const allow = (images: string) => ({ images, action: "allow" })
const deny = (images: string) => ({ images, action: "deny" })

/** Every rule denies, so that each shows itself: which one is for a name. */
function ruleFor(name: string, patterns: string[]): string {
  const policy = policyOf({ default: "deny", rules: patterns.map(deny) })
  return decide(policy, { reference: parseReference(name) }).rule?.images ?? "default"
}

describe("which rule is for a name", () => {
  const ALL = ["docker.io/*", "library/*", "debian", "debian:12", "team/*", "team/sub/*", "a.example/*"]

  test.each([
    ["debian:12", "debian:12"],
    ["docker.io/library/debian:12", "debian:12"],
    ["debian", "debian"],
    ["debian:13", "debian"],
    [`debian@${digest("a")}`, "debian"],
    ["alpine", "library/*"],
    ["team/app", "team/*"],
    ["team/sub/app", "team/sub/*"],
    ["team/subway/app", "team/*"],
    ["teams/app", "docker.io/*"],
    ["a.example/debian:12", "a.example/*"],
    ["b.example/debian:12", "default"],
    ["a.example:5000/debian", "default"],
  ])("%s: %s", (name, rule) => {
    expect(ruleFor(name, ALL)).toBe(rule)
    expect(ruleFor(name, [...ALL].reverse())).toBe(rule)
  })

  test("latest is a tag like others, and what no tag means", () => {
    expect(ruleFor("app", ["app:latest"])).toBe("app:latest")
    expect(ruleFor(`app@${digest("a")}`, ["app:latest"])).toBe("default")
  })

  test.each([
    ["A.Example/app", "a.example/*"],
    ["a.example:443/app", "a.example/*"],
    ["a.example:0443/app", "a.example/*"],
    ["[0:0::1]:5000/app", "[::1]:5000/*"],
    ["127.1:5000/app", "127.0.0.1:5000/*"],
    ["index.docker.io/debian", "library/*"],
    ["INDEX.docker.io/debian", "library/*"],
    ["registry-1.docker.io/library/debian", "library/*"],
  ])("I15: %s is no way around the rule for %s", (name, rule) => {
    expect(ruleFor(name, [rule])).toBe(rule)
  })

  test("I15: a tag beside a digest does not make its rule allow other content", () => {
    const policy = policyOf({ default: "deny", rules: [allow("app:1")] })
    expect(decide(policy, { reference: parseReference("app:1") }).outcome).toBe("allowed")
    expect(decide(policy, { reference: parseReference(`app:1@${digest("a")}`) }).outcome).toBe("refused")
  })

  test("a tag's rule that denies counts beside a digest too", () => {
    const policy = policyOf({ default: "allow", rules: [deny("app:1"), allow("app")] })
    expect(decide(policy, { reference: parseReference(`app:1@${digest("a")}`) }).outcome).toBe("refused")
  })
})

describe("what is decided", () => {
  test("without a file everything is allowed", () => {
    expect(decide(ALLOW_ALL, { reference: undefined })).toEqual({ rule: undefined, outcome: "allowed" })
  })

  test("a refusal names the image, the rule by number, name and file, and what to do", () => {
    const policy = policyOf({ default: "allow", rules: [allow("debian"), deny("evil.example/*")] })
    const decision = decide(policy, { reference: parseReference("evil.example/app") })
    expect(decision).toMatchObject({
      outcome: "refused",
      error: {
        code: "policy-denied",
        message:
          "evil.example/app:latest is denied by rule 2 (evil.example/*) of /etc/policy.json; " +
          "change that rule if the image is to be trusted",
        fields: { rule: 2, images: "evil.example/*", file: "/etc/policy.json" },
      },
    })
  })

  test("an image without a name is decided by the default, and says so", () => {
    const policy = policyOf({ default: "deny", rules: [allow("debian")] })
    const decision = decide(policy, { reference: undefined, digest: digest("a") })
    expect(decision).toMatchObject({ outcome: "refused", rule: undefined })
    expect(decision).toHaveProperty(
      "error.message",
      expect.stringContaining("the default of /etc/policy.json"),
    )
  })

  test("digests: the manifest's or that of an index that leads to it; unknown before a pull", () => {
    const policy = policyOf({ default: "allow", rules: [{ images: "app", digests: [digest("a")] }] })
    const reference = parseReference("app")
    expect(decide(policy, { reference }).outcome).toBe("digest-needed")
    expect(decide(policy, { reference, digest: digest("a") }).outcome).toBe("allowed")
    expect(decide(policy, { reference, digest: digest("b"), indexes: [digest("a")] }).outcome).toBe("allowed")
    const refused = decide(policy, { reference, digest: digest("b"), indexes: [digest("c")] })
    expect(refused).toMatchObject({ outcome: "refused", error: { code: "policy-digest" } })
    expect(refused).toHaveProperty(
      "error.message",
      expect.stringContaining("rule 1 (app) of /etc/policy.json"),
    )
  })

  test("signedBy: the keys that one signature must be of", () => {
    const rules = [{ images: "app", signedBy: { keys: [new TestKey().pem] } }]
    const decision = decide(policyOf({ default: "allow", rules }), { reference: parseReference("app:2") })
    expect(decision).toMatchObject({ outcome: "signature-needed", signature: { keys: [{}] } })
  })
})
