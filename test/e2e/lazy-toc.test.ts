// A sandbox that begins at its image's first run, by the tables of contents of its layers.
import { execFile } from "node:child_process"
import { randomBytes } from "node:crypto"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { gunzipSync } from "node:zlib"
import { ImageStore, type LazyLayerReport } from "@ts-vmm/oci-image"
import { Sandbox, type SandboxOptions } from "@ts-vmm/runtime"
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { TestLayout } from "../../packages/oci-image/src/test-support/test-layout.js"
import {
  estargzLayer,
  filesOfTar,
  type TocLayerOptions,
  zstdChunkedLayer,
} from "../../packages/oci-image/src/test-support/toc-layers.js"
import { busyboxImage } from "../fixtures/images.js"
import { DockerRegistry } from "../interop/docker-registry.js"
import { Workplace } from "./cli.js"
import { CountingProxy } from "./counting-proxy.js"
import { underTest } from "./under-test.js"

const exec = promisify(execFile)
const folder = mkdtempSync(join(tmpdir(), "tsv-lazy-toc-"))
/** What is never asked for, and much of the image. */
const BALLAST = { path: "ballast", content: randomBytes(24_000_000) }
let registry: DockerRegistry
let proxy: CountingProxy

beforeAll(async () => {
  registry = await DockerRegistry.start({})
  proxy = await CountingProxy.start(registry.host)
  const files = [...busyboxFiles(), BALLAST]
  await push("estargz", estargzLayer(files, { chunkSize: 300_000 }))
  await push("zstd-chunked", zstdChunkedLayer(files, { chunkSize: 300_000 }))
  await push("plain", { ...estargzLayer(files), annotations: {} })
  const change: TocLayerOptions["change"] = entries => [...entries, { type: "reg", name: "added" }]
  await push("lying", estargzLayer(files, { chunkSize: 300_000, change }))
})

beforeEach(() => {
  proxy.isLost = false
  proxy.delayMs = 0
  proxy.held = undefined
})

afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]()
  await registry?.[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

function busyboxFiles() {
  const blobs = join(busyboxImage(), "blobs/sha256")
  const documents = readdirSync(blobs).map(name => readFileSync(join(blobs, name)))
  const packed = documents.find(bytes => bytes.readUInt16BE(0) === 0x1f8b) as Buffer
  return filesOfTar(gunzipSync(packed))
}

async function push(name: string, layer: Parameters<TestLayout["image"]>[0][number]): Promise<void> {
  const layout = new TestLayout(join(folder, name))
  layout.image([layer])
  const args = ["--insecure-policy", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false"]
  await exec("skopeo", [...args, `oci:${layout.path}`, `docker://${registry.host}/${name}:1`])
}

const named = (name: string) => `${proxy.host}/${name}:1`
const settings = () =>
  registry.write("proxy.json", JSON.stringify({ hosts: { [proxy.host]: { plainHttp: true } } }))

async function create(name: string, options: Partial<SandboxOptions> = {}) {
  const imageDir = mkdtempSync(join(folder, "images-"))
  const reports: LazyLayerReport[] = []
  const sandbox = await Sandbox.create({
    image: named(name),
    lazy: true,
    onLazyLayer: report => reports.push(report),
    paths: { imageDir, stateDir: join(folder, "state") },
    registriesFile: settings(),
    ...options,
    ...underTest,
  })
  const errors: { code?: string; message: string }[] = []
  sandbox.on("error", error => errors.push(error as { code?: string; message: string }))
  return { sandbox, reports, errors, imageDir, store: await ImageStore.open(imageDir) }
}

describe.each([
  ["estargz", "estargz"],
  ["zstd:chunked", "zstd-chunked"],
] as const)("%s", (format, name) => {
  test("the program runs at the first run, before its image is there; then the image is in the store", async () => {
    const { sandbox, reports, errors, store } = await create(name)
    await using _ = sandbox
    expect(reports.map(({ by }) => by)).toEqual([format])
    expect((await sandbox.shell("echo up")).stdout).toBe("up\n")
    const sum = await sandbox.shell("sha256sum /ballast /bin/busybox")
    expect(sum.exitCode).toBe(0)
    await expect.poll(() => store.get(named(name)), { timeout: 100_000, interval: 100 }).toBeDefined()
    expect(errors).toEqual([])
    expect((await sandbox.shell("sha256sum /ballast /bin/busybox")).stdout).toBe(sum.stdout)
  })
})

test("an image without a table is pulled, and one hears why", async () => {
  const { sandbox, reports, store } = await create("plain")
  await using _ = sandbox
  expect(reports.map(({ by, reason }) => [by, reason?.code])).toEqual([["whole", "toc-invalid"]])
  expect((await store.get(named("plain")))?.digest).toBe(sandbox.image?.digest)
})

test("an image that its table belies runs, and is not kept", async () => {
  const { sandbox, errors, store, imageDir } = await create("lying")
  expect((await sandbox.shell("ls /added")).stdout).toBe("/added\n")
  await expect.poll(() => errors, { timeout: 100_000, interval: 100 }).toHaveLength(1)
  expect(errors[0]).toMatchObject({ code: "image-invalid", message: expect.stringContaining("/added") })
  await sandbox.destroy()
  expect(await store.list()).toEqual([])
  expect(readdirSync(join(imageDir, "tmp"))).toEqual([])
})

test("I13: a registry that is lost is an I/O error in the guest and an event, never wrong data", async () => {
  proxy.delayMs = 300
  // Of the ballast: not all of it comes before the registry is lost, however long the rest takes.
  proxy.held = { from: 8_000_000, to: 16_000_000 }
  const { sandbox, errors } = await create("estargz")
  await using _ = sandbox
  // What it takes to try comes before.
  await sandbox.shell("cat /dev/null; echo alive")
  proxy.isLost = true
  proxy.held = undefined
  const read = await sandbox.shell("cat /ballast > /dev/null", { timeoutMs: 100_000 })
  expect(read.exitCode).not.toBe(0)
  expect(read.stderr).toContain("Input/output error")
  expect(errors[0]).toMatchObject({ code: "image-unavailable" })
  expect((await sandbox.shell("echo alive")).stdout).toBe("alive\n")
})

test("the command line says how an image was begun with, or why not", async () => {
  const place = new Workplace(mkdtempSync(join(folder, "images-")))
  const env = { TS_VMM_REGISTRIES: settings() }
  const run = (name: string, ...options: string[]) =>
    place.run(["run", "--rm", "--lazy", ...options, named(name), "echo", "up"], { env })
  const begun = await run("estargz", "--json")
  expect(begun.stdout.toString()).toBe("up\n")
  expect(JSON.parse(begun.stderr.split("\n")[0] ?? "")).toMatchObject({
    event: "lazy",
    begun: true,
    layers: [{ by: "estargz" }],
  })
  const whole = await run("plain")
  expect(whole.stdout.toString()).toBe("up\n")
  expect(whole.stderr).toContain("pulled whole, not --lazy: a layer has no table of contents")
  expect(place.leftFiles()).toEqual([])
  place.remove()
})
