// Debian's docker-registry and skopeo against our client: what one side pushes, the other pulls with equal digests.
import { execFile } from "node:child_process"
import { cpSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import {
  DEFAULT_LIMITS,
  digestOf,
  hostPlatform,
  type ImageSource,
  ImageStore,
  openSource,
  packImage,
} from "@ts-vmm/oci-image"
import {
  type CredentialSource,
  dockerCredentials,
  loadRegistryHosts,
  login,
  logout,
  RegistryClient,
} from "@ts-vmm/oci-image/registry"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { DockerRegistry, PASSWORD, type RegistryKind, USER } from "./docker-registry.js"

const CREDENTIALS = { username: USER, password: PASSWORD }

/** Not synchronous: the token server that it asks is in this process. */
const skopeo = async (...args: string[]): Promise<string> =>
  (await promisify(execFile)("skopeo", ["--insecure-policy", ...args], { encoding: "utf8" })).stdout

const KINDS: readonly (readonly [string, RegistryKind])[] = [
  ["plain HTTP", {}],
  ["TLS of an own authority", { tls: true }],
  ["a password", { tls: true, auth: "basic" }],
  ["tokens", { auth: "token" }],
]

describe.each(KINDS)("docker-registry with %s", (_, kind) => {
  const folder = mkdtempSync(join(tmpdir(), "ts-vmm-pull-"))
  const layout = join(folder, "layout")
  let registry: DockerRegistry
  let digest: string

  const client = (credentials: CredentialSource = async () => (kind.auth ? CREDENTIALS : undefined)) =>
    new RegistryClient({ hosts: loadRegistryHosts(registry.settings()), credentials })

  beforeAll(async () => {
    registry = await DockerRegistry.start(kind)
    const files = [{ path: "data", content: "0123456789".repeat(300_000) }]
    const layers = [{ files }, { files: [{ path: "hello", content: "hi\n" }] }]
    ;({ digest } = await packImage(layout, { layers, config: { cmd: ["/hello"] }, compression: "gzip" }))
    await skopeo(
      "copy",
      ...registry.skopeoOptions("dest"),
      `oci:${layout}:latest`,
      `docker://${registry.host}/team/app:1`,
    )
  })

  afterAll(async () => {
    await registry?.[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true, force: true })
  })

  test("what skopeo pushes is pulled with equal digests", async () => {
    await using from = client()
    const store = await ImageStore.open(join(folder, "by-tag"))
    const image = await store.load(from.source(`${registry.host}/team/app:1`))
    expect(image.digest).toBe(digest)
    expect(image.config.cmd).toEqual(["/hello"])
  })

  test("an image is pulled by its digest", async () => {
    await using from = client()
    const store = await ImageStore.open(join(folder, "by-digest"))
    const image = await store.load(from.source(`${registry.host}/team/app@${digest}`))
    expect(image.digest).toBe(digest)
  })

  test("a tag that is not there is not found", async () => {
    await using from = client()
    const store = await ImageStore.open(join(folder, "missing"))
    await expect(store.load(from.source(`${registry.host}/team/app:2`))).rejects.toMatchObject({
      code: "registry-not-found",
    })
  })

  test("what we push, skopeo reads with equal digests; pushed again, nothing is sent", async () => {
    await using to = client()
    await using image = await source(`oci:${layout}:latest`)
    const root = await image.locate({ platform: hostPlatform(), limits: DEFAULT_LIMITS })
    const name = `${registry.host}/other/pushed:1`
    const first = await to.push(root, image.blobs, name)
    expect(first).toMatchObject({ digest, blobs: { uploaded: 3, present: 0 } })
    const seen = await skopeo("inspect", ...registry.skopeoOptions(""), `docker://${name}`)
    expect(JSON.parse(seen)).toMatchObject({ Digest: digest })
    const copy = join(folder, "copy")
    await skopeo("copy", ...registry.skopeoOptions("src"), `docker://${name}`, `oci:${copy}:latest`)
    const store = await ImageStore.open(join(folder, "copied"))
    expect((await store.load(`oci:${copy}:latest`)).digest).toBe(digest)
    expect(await to.push(root, image.blobs, name)).toMatchObject({
      blobs: { uploaded: 0, present: 3 },
      bytes: 0,
    })
  })

  test("layers are taken over from another repository", async () => {
    await using to = client()
    const from = to.source(`${registry.host}/team/app:1`)
    const root = await from.locate({ platform: hostPlatform(), limits: DEFAULT_LIMITS })
    const name = `${registry.host}/other/mounted:1`
    const result = await to.push(root, from.blobs, name, { mountFrom: ["team/app"] })
    expect(result).toMatchObject({ digest, blobs: { mounted: 3, uploaded: 0 } })
  })

  test("an index is pushed with its images, and pulled by platform", async () => {
    await using to = client()
    const index = join(folder, "index")
    await using image = await indexOfTwo(layout, index)
    const name = `${registry.host}/other/index:1`
    await to.push(image.root, image.source.blobs, name)
    const raw = await skopeo("inspect", "--raw", ...registry.skopeoOptions(""), `docker://${name}`)
    expect(digestOf(raw)).toBe(image.root.digest)
    const store = await ImageStore.open(join(folder, "from-index"))
    expect((await store.load(to.source(name))).digest).toBe(digest)
  })

  test("an image without referrers has none, by the tag that stands in for the list", async () => {
    await using from = client()
    expect(await from.referrers(`${registry.host}/team/app@${digest}`)).toEqual([])
  })

  if (kind.auth) {
    test("nobody is let in without credentials, or with wrong ones", async () => {
      const store = await ImageStore.open(join(folder, "denied"))
      for (const wrong of [undefined, { username: USER, password: "wrong" }]) {
        await using from = client(async () => wrong)
        await expect(store.load(from.source(`${registry.host}/team/app:1`))).rejects.toMatchObject({
          code: "registry-unauthorized",
        })
      }
    })

    test("credentials of a log-in are kept for pulls, wrong ones are not", async () => {
      const configFile = join(folder, "docker", "config.json")
      const options = { configFile, hosts: loadRegistryHosts(registry.settings()) }
      await expect(login(registry.host, { ...CREDENTIALS, password: "no" }, options)).rejects.toMatchObject({
        code: "registry-unauthorized",
      })
      await login(registry.host, CREDENTIALS, options)
      await using from = client(dockerCredentials(configFile))
      const store = await ImageStore.open(join(folder, "logged-in"))
      expect((await store.load(from.source(`${registry.host}/team/app:1`))).digest).toBe(digest)
      expect(await logout(registry.host, { configFile })).toBe(true)
      await using stranger = client(dockerCredentials(configFile))
      await expect(stranger.referrers(`${registry.host}/team/app@${digest}`)).rejects.toMatchObject({
        code: "registry-unauthorized",
      })
    })
  }

  if (kind.tls) {
    test("I12: nobody is trusted without being vouched for, and nothing falls back to plain HTTP", async () => {
      const hosts = new Map([[registry.host, { plainHttp: false }]])
      await using from = new RegistryClient({ hosts, credentials: async () => CREDENTIALS })
      const store = await ImageStore.open(join(folder, "untrusted"))
      await expect(store.load(from.source(`${registry.host}/team/app:1`))).rejects.toMatchObject({
        code: "registry-tls",
      })
    })
  }
})

async function source(text: string): Promise<ImageSource> {
  const opened = await openSource(text, DEFAULT_LIMITS)
  if ("image" in opened) return opened.image
  throw new Error(`${text} is no image`)
}

/** The image of a layout, and the same for a platform that nobody has, behind one index. */
async function indexOfTwo(layout: string, to: string) {
  const { architecture } = hostPlatform()
  const other = await packImage(to, { layers: [], platform: { os: "plan9", architecture } })
  cpSync(layout, to, { recursive: true })
  const entry = (digest: string, os: string) => ({
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    digest,
    size: statSync(blobPath(to, digest)).size,
    platform: { os, architecture },
  })
  const own = JSON.parse(readFileSync(join(layout, "index.json"), "utf8")).manifests[0].digest
  const mediaType = "application/vnd.oci.image.index.v1+json"
  const manifests = [entry(other.digest, "plan9"), entry(own, "linux")]
  const document = JSON.stringify({ schemaVersion: 2, mediaType, manifests })
  const root = { mediaType, digest: digestOf(document), size: document.length }
  writeFileSync(blobPath(to, root.digest), document)
  const opened = await source(`oci:${to}:latest`)
  return { root, source: opened, [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose]() }
}

function blobPath(layout: string, digest: string): string {
  return join(layout, "blobs/sha256", digest.replace("sha256:", ""))
}
