// A policy between images and sandboxes, as the command line and as a program meet it.
import { generateKeyPairSync } from "node:crypto"
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ImageStore, type StoredImage } from "@ts-vmm/oci-image"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { Workplace } from "./cli.js"
import { underTest } from "./under-test.js"

const scratch = mkdtempSync(join(tmpdir(), "tsv-policy-"))
const imageDir = join(scratch, "images")
const place = new Workplace(imageDir)
const NAME = "registry.example/team/busybox:1"
let image: StoredImage

beforeAll(async () => {
  const store = await ImageStore.open(imageDir)
  image = await store.load(`oci:${busyboxImage()}`, { name: NAME })
})
afterAll(() => {
  place.remove()
  rmSync(scratch, { recursive: true, force: true })
})

function policyFile(policy: object | string): string {
  const path = join(scratch, `policy-${readdirSync(scratch).length}.json`)
  writeFileSync(path, typeof policy === "string" ? policy : JSON.stringify(policy))
  return path
}

/** Runs the image by some reference under a policy. */
function run(policy: object | string, reference = NAME) {
  const env = { TS_VMM_POLICY: policyFile(policy) }
  return place.run(["run", "--rm", "--pull", "never", reference, "echo", "ran"], { env })
}

async function expectRefused(policy: object | string, why: RegExp, reference = NAME): Promise<void> {
  const { exitCode, stdout, stderr } = await run(policy, reference)
  expect(stderr).toMatch(why)
  expect(stderr.trimEnd().split("\n")).toHaveLength(1)
  expect([exitCode, stdout.toString()]).toEqual([125, ""])
  expect(place.leftFiles()).toEqual([])
}

const rule = (images: string, demand: object) => ({ default: "deny", rules: [{ images, ...demand }] })

describe("an image runs where a rule allows it", () => {
  test.each([
    ["by its registry", rule("registry.example/*", { action: "allow" })],
    ["by its digest", () => rule("registry.example/team/busybox", { digests: [image.digest] })],
    ["by default", { default: "allow", rules: [{ images: "other.example/*", action: "deny" }] }],
  ])("%s", async (_, policy) => {
    const { stdout, stderr } = await run(typeof policy === "function" ? policy() : policy)
    expect([stdout.toString(), stderr]).toEqual(["ran\n", ""])
  })
})

describe("an image that is refused does not start, and the message names the rule", () => {
  test("by default", () =>
    expectRefused({ default: "deny" }, /is denied by the default of .*policy-\d+\.json/))

  test("by a rule", () =>
    expectRefused(
      { default: "allow", rules: [{ images: "registry.example/team/*", action: "deny" }] },
      /is denied by rule 1 \(registry\.example\/team\/\*\)/,
    ))

  test("by its digest", () =>
    expectRefused(
      rule("registry.example/*", { digests: [`sha256:${"0".repeat(64)}`] }),
      /not among the digests of rule 1/,
    ))

  test("without a signature", () => {
    const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" })
    const key = publicKey.export({ type: "spki", format: "pem" })
    return expectRefused(
      rule("registry.example/*", { signedBy: { keys: [key] } }),
      /has no signature, which rule 1/,
    )
  })

  test("also by its digest, or from a folder", async () => {
    await expectRefused(rule("other.example/*", { action: "allow" }), /is denied/, image.digest)
    await expectRefused({ default: "deny" }, /is denied/, `oci:${busyboxImage()}`)
  })

  test("by an id that looks like a name", async () => {
    const other = new Workplace(join(scratch, "unnamed"))
    const store = await ImageStore.open(join(scratch, "unnamed"))
    const { configDigest } = await store.load(`oci:${busyboxImage()}`)
    const env = { TS_VMM_POLICY: policyFile(rule("docker.io/*", { action: "allow" })) }
    const { exitCode, stderr } = await other.run(["run", "--rm", configDigest.slice(7, 19), "true"], { env })
    other.remove()
    expect([exitCode, stderr]).toEqual([125, expect.stringContaining("is denied by the default")])
  })

  test("by a policy that cannot be read: fail closed", async () => {
    await expectRefused("{", /^example-runtime: .*policy-\d+\.json/)
    await expectRefused({ default: "allow", rulez: [] }, /rulez/)
    const { exitCode } = await place.run(["run", "--rm", NAME, "true"], {
      env: { TS_VMM_POLICY: join(scratch, "none.json") },
    })
    expect(exitCode).toBe(125)
  })
})

test("a program looks into the root once, and can refuse it", async () => {
  const seen = join(scratch, "seen")
  const look = `tar -tf - | grep -q bin/busybox && echo x >> ${seen}`
  const scan = { command: "/bin/sh", args: ["-c", look], env: { PATH: "/usr/bin:/bin" } }
  for (let i = 0; i < 2; i++) expect((await run({ default: "allow", scan })).stdout.toString()).toBe("ran\n")
  expect(readdirSync(join(imageDir, "trust"))).toHaveLength(1)
  const refuse = { ...scan, args: ["-c", "cat > /dev/null; echo 'too old' >&2; exit 1"] }
  await expectRefused({ default: "allow", scan: refuse }, /refuses .*too old/)
})

test("a program that has an image already is asked as well", async () => {
  const create = Sandbox.create({
    image,
    policyFile: policyFile({ default: "deny" }),
    paths: { imageDir, stateDir: place.stateDir },
    ...underTest,
  })
  await expect(create).rejects.toMatchObject({ code: "image-refused" })
})
