import { execFileSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ImageStore, type StoredImage } from "@ts-vmm/oci-image"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage, layeredImage } from "../fixtures/images.js"
import { Containers, isRoot, sha256, skopeo, skopeoDigests, umoci } from "./images/tools.js"

const folder = mkdtempSync(join(tmpdir(), "images-"))
const file = (name: string) => join(folder, name)
const containers = new Containers(folder)
/** Full names of the images, as they are in archives. */
const [LAYERED, BUSYBOX] = ["docker.io/library/layered:1", "host.example/team/busybox:2"]
const NEEDS_ROOT = isRoot ? "" : " (skipped: they keep images as root only)"
let store: ImageStore
let layered: StoredImage
let busybox: StoredImage

beforeAll(async () => {
  store = await ImageStore.open(file("store"))
  layered = await store.load(`oci:${layeredImage()}`, { name: LAYERED })
  busybox = await store.load(`oci:${busyboxImage()}`, { name: BUSYBOX })
  await store.save([LAYERED, BUSYBOX], file("two-oci.tar"))
  await store.save([LAYERED, BUSYBOX], file("two-docker.tar"), { format: "docker-archive" })
  await store.save([LAYERED], file("one-oci.tar"))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const digestsOf = (image: StoredImage) => ({ manifest: image.digest, config: image.configDigest })
const both = () => [[LAYERED, layered] as const, [BUSYBOX, busybox] as const]

describe("what is saved here", () => {
  test("skopeo reads both images of an oci-archive, and copies them with every digest proven", () => {
    for (const [name, image] of both()) {
      const source = `oci-archive:${file("two-oci.tar")}:${name}`
      expect(skopeoDigests(source)).toEqual(digestsOf(image))
      skopeo("copy", "--preserve-digests", source, `oci:${file("copied")}:${image.digest.slice(7)}`)
      expect(skopeoDigests(`oci:${file("copied")}:${image.digest.slice(7)}`)).toEqual(digestsOf(image))
    }
  })

  test("skopeo reads both images of a docker-archive, whose layers are the unpacked ones", async () => {
    for (const [name, image] of both()) {
      const source = `docker-archive:${file("two-docker.tar")}:${name}`
      expect(skopeoDigests(source).config).toBe(image.configDigest)
      const target = file(`copied-${image.configDigest.slice(7, 19)}`)
      skopeo("copy", source, `dir:${target}`)
      const { layers } = JSON.parse(readFileSync(join(target, "manifest.json"), "utf8"))
      const { RootFS } = await store.inspect(image.digest)
      expect(layers.map((layer: { digest: string }) => layer.digest)).toEqual(RootFS.Layers)
      for (const digest of RootFS.Layers)
        expect(sha256(readFileSync(join(target, digest.slice(7))))).toBe(digest)
    }
  })

  test("umoci finds the names in an unpacked oci-archive, and unpacks the images", async () => {
    // Debian's umoci knows no zstd: what comes back from a docker-archive has its layers unpacked.
    const plain = await ImageStore.open(file("plain"))
    await plain.loadArchive(file("two-docker.tar"), { names: "take" })
    await plain.save([LAYERED, BUSYBOX], file("plain.tar"))
    const layout = file("layout")
    mkdirSync(layout)
    execFileSync("tar", ["-xf", file("plain.tar"), "-C", layout])
    expect(umoci("list", "--layout", layout).split("\n").sort()).toEqual([LAYERED, BUSYBOX].sort())
    for (const [i, tag] of renameForUmoci(layout).entries()) {
      umoci("unpack", ...(isRoot ? [] : ["--rootless"]), "--image", `${layout}:${tag}`, file(`bundle-${i}`))
      expect(readdirSync(file(`bundle-${i}/rootfs`)).length).toBeGreaterThan(3)
    }
  })

  describe.skipIf(!isRoot)(`podman${NEEDS_ROOT}`, () => {
    test("loads an oci-archive of one image under its name, with its digests", () => {
      expect(containers.podman("load", "-q", "-i", file("one-oci.tar"))).toContain(LAYERED)
      expect(containers.digests(LAYERED)).toEqual(digestsOf(layered))
      containers.podman("rmi", "-a", "-f")
    })

    test("loads a docker-archive of two images under their names, with their ids", () => {
      containers.podman("load", "-q", "-i", file("two-docker.tar"))
      for (const [name, image] of both()) expect(containers.digests(name).config).toBe(image.configDigest)
      containers.podman("rmi", "-a", "-f")
    })

    test("refuses an oci-archive of two images, as the README says", () => {
      expect(() => containers.podman("load", "-q", "-i", file("two-oci.tar"))).toThrow(/more than one image/)
    })
  })
})

/** umoci takes no colon in a name that it is given. @returns the new names */
function renameForUmoci(layout: string): string[] {
  const index = JSON.parse(readFileSync(join(layout, "index.json"), "utf8"))
  const tags = index.manifests.map((_: object, i: number) => `tag-${i}`)
  index.manifests.forEach((entry: { annotations: object }, i: number) => {
    entry.annotations = { "org.opencontainers.image.ref.name": tags[i] }
  })
  writeFileSync(join(layout, "index.json"), JSON.stringify(index))
  return tags
}

/** Loads an archive into a store of its own, names and all. */
async function loadFresh(path: string) {
  const fresh = await ImageStore.open(`${path}.store`)
  const loaded = await fresh.loadArchive(path, { names: "take" })
  return loaded.map(({ image, names }) => ({ ...digestsOf(image), names }))
}

describe("what others save is loaded here with equal digests", () => {
  test("skopeo's archives", async () => {
    const oci = `oci-archive:${file("skopeo-oci.tar")}`
    skopeo("copy", "--preserve-digests", `oci:${layeredImage()}`, `${oci}:${LAYERED}`)
    expect(await loadFresh(file("skopeo-oci.tar"))).toEqual([{ ...digestsOf(layered), names: [LAYERED] }])
    // docker's format knows no zstd, which the other image has.
    const docker = `docker-archive:${file("skopeo-docker.tar")}`
    skopeo("copy", `oci:${busyboxImage()}`, `${docker}:${BUSYBOX}`)
    const [loaded] = await loadFresh(file("skopeo-docker.tar"))
    expect(loaded).toMatchObject({ config: skopeoDigests(docker).config, names: [BUSYBOX] })
  })

  describe.skipIf(!isRoot)(`podman's and buildah's${NEEDS_ROOT}`, () => {
    beforeAll(() => void containers.podman("load", "-q", "-i", file("two-docker.tar")))

    test("podman's archives, of one image and of two", async () => {
      for (const format of ["oci-archive", "docker-archive"]) {
        const path = file(`podman-${format}.tar`)
        containers.podman("save", "-q", "--format", format, "-o", path, LAYERED)
        const [loaded, ...others] = await loadFresh(path)
        expect(others).toEqual([])
        const expected = skopeoDigests(`${format}:${path}`)
        expect(loaded).toMatchObject({ config: expected.config, names: [LAYERED] })
        // podman rewrites the config of an image that it loaded from docker's format when it saves it in the other one.
        if (format === "oci-archive") expect(loaded?.manifest).toBe(expected.manifest)
        else expect(loaded?.config).toBe(layered.configDigest)
      }
      containers.podman(
        "save",
        "-q",
        "-m",
        "--format",
        "docker-archive",
        "-o",
        file("two.tar"),
        LAYERED,
        BUSYBOX,
      )
      const ids = (await loadFresh(file("two.tar"))).map(({ config, names }) => [names, config])
      expect(ids.sort()).toEqual([
        [[LAYERED], layered.configDigest],
        [[BUSYBOX], busybox.configDigest],
      ])
    })

    test("buildah's archives of an image that it made", async () => {
      writeFileSync(file("hello"), "hello\n", { mode: 0o640 })
      const working = containers.buildah("from", BUSYBOX)
      containers.buildah("copy", working, file("hello"), "/hello")
      containers.buildah("config", "--cmd", "/hello", working)
      containers.buildah("commit", "-q", working, "localhost/made:1")
      for (const format of ["oci-archive", "docker-archive"]) {
        const [path, digestFile] = [file(`buildah-${format}.tar`), file(`buildah-${format}.digest`)]
        const target = `${format}:${path}:localhost/made:1`
        containers.buildah("push", "-q", "--digestfile", digestFile, "localhost/made:1", target)
        const [loaded] = await loadFresh(path)
        expect(loaded?.names).toEqual(["localhost/made:1"])
        expect(loaded?.config).toBe(skopeoDigests(`${format}:${path}`).config)
        if (format === "oci-archive") expect(loaded?.manifest).toBe(readFileSync(digestFile, "utf8").trim())
      }
    })
  })
})
