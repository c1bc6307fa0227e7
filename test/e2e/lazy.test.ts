// A sandbox that begins before its image is there: Debian's docker-registry on loopback, and between it and us a proxy
// that counts, and that can be taken away.
import { execFile } from "node:child_process"
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { ImageStore } from "@ts-vmm/oci-image"
import { RegistryClient } from "@ts-vmm/oci-image/registry"
import { Sandbox, type SandboxOptions } from "@ts-vmm/runtime"
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest"
import { pythonImage } from "../fixtures/images.js"
import { DockerRegistry } from "../interop/docker-registry.js"
import { CountingProxy } from "./counting-proxy.js"
import { underTest } from "./under-test.js"

const folder = mkdtempSync(join(tmpdir(), "tsv-lazy-"))
const imageDir = join(folder, "images")
let registry: DockerRegistry
let proxy: CountingProxy
let store: ImageStore
let blobBytes = 0
/** A part of the image that none of the programs here needs: as long as it is held, not all of the image is there. */
const spare = () => ({ from: 0.75 * blobBytes, to: 0.97 * blobBytes })

beforeAll(async () => {
  registry = await DockerRegistry.start({})
  proxy = await CountingProxy.start(registry.host)
  const target = `docker://${registry.host}/python:1`
  const args = ["--insecure-policy", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false"]
  await promisify(execFile)("skopeo", [...args, `oci:${pythonImage()}`, target])
  store = await ImageStore.open(imageDir)
  await using client = new RegistryClient({ hosts: new Map([[proxy.host, { plainHttp: true }]]) })
  await store.load(client.source(name()), { name: name() })
  blobBytes = proxy.bytes
  expect(await store.keepLazyIndex(name())).toEqual([])
})

beforeEach(async () => {
  await store.prune({ all: true })
  proxy.bytes = 0
  proxy.isLost = false
  proxy.delayMs = 0
  proxy.held = undefined
})

afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]()
  await registry?.[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

const name = () => `${proxy.host}/python:1`

function create(options: Partial<SandboxOptions> = {}): Promise<Sandbox> {
  return Sandbox.create({
    image: name(),
    lazy: true,
    paths: { imageDir, stateDir: join(folder, "state") },
    registriesFile: proxySettings(),
    ...options,
    ...underTest,
  })
}

function proxySettings(): string {
  return registry.write("proxy.json", JSON.stringify({ hosts: { [proxy.host]: { plainHttp: true } } }))
}

function errorsOf(sandbox: Sandbox): { code?: string }[] {
  const errors: { code?: string }[] = []
  sandbox.on("error", error => errors.push(error as { code?: string }))
  return errors
}

const partFiles = () => readdirSync(join(imageDir, "parts"))
const leftOver = () => readdirSync(join(imageDir, "tmp"))

test("the program runs before its image is there; then the image is in the store, whole", async () => {
  proxy.held = spare()
  await using sandbox = await create()
  const errors = errorsOf(sandbox)
  const { stdout } = await sandbox.exec("python3", ["-c", "print(6 * 7)"])
  expect(stdout).toBe("42\n")
  expect(await store.get(name())).toBeUndefined()
  proxy.held = undefined
  await expect.poll(() => store.get(name()), { timeout: 100_000, interval: 100 }).toBeDefined()
  expect(errors).toEqual([])
  // As it came, so that it can be saved and pushed.
  await store.withContent(name(), async ({ root }) => expect(root.digest).toBe(sandbox.image?.digest))
  const { stdout: sums } = await sandbox.shell(
    "find /usr/lib/python3* -name '*.py' | sort | xargs sha256sum | sha256sum",
  )
  await using again = await create()
  expect(
    (await again.shell("find /usr/lib/python3* -name '*.py' | sort | xargs sha256sum | sha256sum")).stdout,
  ).toBe(sums)
})

test("the second start fetches first what the first needed", async () => {
  const first = await create()
  await first.exec("python3", ["-c", "pass"])
  await first.destroy()
  await store.prune({ all: true })
  expect(
    statSync(join(imageDir, "lazy", readdirSync(join(imageDir, "lazy"))[0] as string, "start")).size,
  ).toBeGreaterThan(0)
  proxy.bytes = 0
  proxy.delayMs = 500
  proxy.held = spare()
  await using second = await create()
  expect((await second.exec("python3", ["-c", "print(1)"])).stdout).toBe("1\n")
  expect(proxy.bytes).toBeLessThan(blobBytes)
})

test("I13: a registry that is lost is an I/O error in the guest and an event, never wrong data", async () => {
  proxy.delayMs = 300
  proxy.held = spare()
  await using sandbox = await create()
  const errors = errorsOf(sandbox)
  await sandbox.shell("cat /etc/hostname; find /etc -name passwd; echo alive")
  proxy.isLost = true
  proxy.held = undefined
  const read = await sandbox.shell("cat $(find /usr -type f -size +100k) > /dev/null", {
    timeoutMs: 100_000,
  })
  expect(read.exitCode).not.toBe(0)
  expect(read.stderr).toContain("Input/output error")
  expect(errors[0]).toMatchObject({ code: "image-unavailable" })
  expect((await sandbox.shell("echo alive")).stdout).toBe("alive\n")
  proxy.isLost = false
  proxy.delayMs = 0
  await expect.poll(() => store.get(name()), { timeout: 100_000, interval: 100 }).toBeDefined()
})

test("a sandbox that ends early leaves nothing of its image", async () => {
  const sandbox = await create()
  await sandbox.destroy()
  expect(leftOver()).toEqual([])
  expect(await store.list()).toEqual([])
  expect(blobBytes).toBeGreaterThan(proxy.bytes)
  expect(partFiles().length).toBeLessThanOrEqual(1)
})
