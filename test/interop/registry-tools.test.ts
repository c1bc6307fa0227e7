// podman and buildah beside us at one registry: what they push is pulled here, what is pushed here they pull.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ImageStore, type StoredImage } from "@ts-vmm/oci-image"
import { loadRegistryHosts, RegistryClient } from "@ts-vmm/oci-image/registry"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage, layeredImage } from "../fixtures/images.js"
import { DockerRegistry } from "./docker-registry.js"
import { Containers, isRoot } from "./images/tools.js"

const folder = mkdtempSync(join(tmpdir(), "registry-tools-"))
const file = (name: string) => join(folder, name)
const containers = new Containers(folder)
const INSECURE = "--tls-verify=false"
const NEEDS_ROOT = isRoot ? "" : " (skipped: they keep images as root only)"
let registry: DockerRegistry
let store: ImageStore
let busybox: StoredImage
let layered: StoredImage

describe.skipIf(!isRoot)(`podman and buildah at a registry${NEEDS_ROOT}`, () => {
  beforeAll(async () => {
    registry = await DockerRegistry.start({})
    store = await ImageStore.open(file("store"))
    busybox = await store.load(`oci:${busyboxImage()}`, { name: "busybox:1" })
    layered = await store.load(`oci:${layeredImage()}`, { name: "layered:1" })
  })
  afterAll(async () => {
    await registry?.[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true, force: true })
  })

  const client = () =>
    new RegistryClient({ hosts: loadRegistryHosts(registry.settings()), credentials: async () => undefined })
  const nameOf = (path: string) => `${registry.host}/${path}`

  test("what we push, podman pulls with equal digests", async () => {
    await using to = client()
    for (const [path, image] of [
      ["ours/busybox:1", busybox],
      ["ours/layered:1", layered],
    ] as const) {
      await store.withContent(image.digest, ({ root, blobs }) => to.push(root, blobs, nameOf(path)))
      containers.podman("pull", "-q", INSECURE, nameOf(path))
      expect(containers.digests(nameOf(path))).toEqual({ manifest: image.digest, config: image.configDigest })
    }
  })

  test("what podman pushes, we pull with equal digests", async () => {
    await store.save(["busybox:1"], file("busybox.tar"))
    containers.podman("load", "-q", "-i", file("busybox.tar"))
    const digestFile = file("podman.digest")
    containers.podman(
      "push",
      "-q",
      INSECURE,
      "--digestfile",
      digestFile,
      "docker.io/library/busybox:1",
      nameOf("podman/busybox:1"),
    )
    expect(await pulled("podman/busybox:1")).toEqual({
      digest: readFileSync(digestFile, "utf8").trim(),
      config: busybox.configDigest,
    })
  })

  test("what buildah makes and pushes, we pull with equal digests", async () => {
    writeFileSync(file("hello"), "hello\n", { mode: 0o640 })
    const working = containers.buildah("from", "docker.io/library/busybox:1")
    containers.buildah("copy", working, file("hello"), "/hello")
    containers.buildah("commit", "-q", working, "localhost/made:1")
    const digestFile = file("buildah.digest")
    containers.buildah(
      "push",
      "-q",
      INSECURE,
      "--digestfile",
      digestFile,
      "localhost/made:1",
      `docker://${nameOf("buildah/made:1")}`,
    )
    const { digest } = await pulled("buildah/made:1")
    expect(digest).toBe(readFileSync(digestFile, "utf8").trim())
  })

  /** Pulls into a store that has nothing yet. */
  async function pulled(path: string): Promise<{ digest: string; config: string }> {
    await using from = client()
    const fresh = await ImageStore.open(mkdtempSync(file("fresh-")))
    const image = await fresh.load(from.source(nameOf(path)))
    return { digest: image.digest, config: image.configDigest }
  }
})
