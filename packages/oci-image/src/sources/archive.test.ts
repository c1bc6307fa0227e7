import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { describe, expect, test } from "vitest"
import type { PackFile } from "../pack/items.js"
import { packImage } from "../pack/pack-image.js"
import { ImageStore } from "../store/store.js"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { codeOf, hasProgram, sha256, tarOf, temporaryFolder } from "../test-support/images.js"
import { rawEntry } from "../test-support/raw-tar.js"

const hex = (bytes: Buffer | string) => createHash("sha256").update(bytes).digest("hex")
const layerTars = [tarOf([{ path: "a", content: "one" }]), tarOf([{ path: "b", content: "two" }])] as [
  Buffer,
  Buffer,
]

/** The files of an old `docker save` archive, to be spoiled by tests. */
function dockerSave(layers: readonly Buffer[] = layerTars, stored: readonly Buffer[] = layers) {
  const config = JSON.stringify({
    os: "linux",
    architecture: "amd64",
    config: { Cmd: ["/a"] },
    rootfs: { type: "layers", diff_ids: layers.map(l => `sha256:${hex(l)}`) },
  })
  const manifest = [
    {
      Config: `${hex(config)}.json`,
      RepoTags: ["app:1"],
      Layers: layers.map((_, i) => `layer${i}/layer.tar`),
    },
  ]
  return { config, manifest, layers: stored }
}

function archiveOf(
  { config, manifest, layers }: ReturnType<typeof dockerSave>,
  more: readonly PackFile[] = [],
): Buffer {
  return tarOf([
    ...layers.flatMap((content, i) => [{ path: `layer${i}/` }, { path: `layer${i}/layer.tar`, content }]),
    { path: `${hex(config)}.json`, content: config },
    { path: "manifest.json", content: JSON.stringify(manifest) },
    ...more,
  ])
}

async function load(bytes: Buffer, prefix = "docker-archive:", tag = "") {
  const folder = temporaryFolder()
  writeFileSync(join(folder, "a.tar"), bytes)
  const store = await ImageStore.open(join(folder, "store"))
  return store.load(`${prefix}${join(folder, "a.tar")}${tag}`)
}

const filesOf = async (image: ReturnType<typeof load>) =>
  [...readErofs(readDiskBytes((await image).disk())).keys()].filter(Boolean).sort()

describe("docker archives", () => {
  test("are read where they are, by any spelling of the source", async () => {
    const bytes = archiveOf(dockerSave())
    expect(await filesOf(load(bytes))).toEqual(["a", "b"])
    expect(await filesOf(load(bytes, ""))).toEqual(["a", "b"])
    expect(await filesOf(load(bytes, "docker-archive:", ":app:1"))).toEqual(["a", "b"])
    expect((await load(bytes)).config.cmd).toEqual(["/a"])
  })

  test("give the same image every time, whatever else is in the archive", async () => {
    const [one, two] = [
      await load(archiveOf(dockerSave())),
      await load(archiveOf(dockerSave(), [{ path: "repositories", content: "{}" }])),
    ]
    expect(two.digest).toBe(one.digest)
    expect(one.layers).toEqual(layerTars.map(sha256))
  })

  test("may hold packed layers, and links in place of a layer that occurs twice", async () => {
    expect(
      await filesOf(
        load(
          archiveOf(
            dockerSave(
              layerTars,
              layerTars.map(l => gzipSync(l)),
            ),
          ),
        ),
      ),
    ).toEqual(["a", "b"])
    const save = dockerSave([layerTars[0], layerTars[0]])
    const linked = tarOf([
      { path: "layer0/layer.tar", content: layerTars[0] },
      { path: "layer1/layer.tar", target: "../layer0/layer.tar" },
      { path: `${hex(save.config)}.json`, content: save.config },
      { path: "manifest.json", content: JSON.stringify(save.manifest) },
    ])
    expect(await filesOf(load(linked))).toEqual(["a"])
  })

  const save = dockerSave()
  const [image] = save.manifest
  const cases: readonly (readonly [string, string, Buffer])[] = [
    [
      "layer that is not the one the config names",
      "digest-mismatch",
      archiveOf(dockerSave(layerTars, [layerTars[1], layerTars[0]])),
    ],
    [
      "config that is not what its name says",
      "digest-mismatch",
      archiveOf({ ...save, manifest: [{ ...image, Config: `${"0".repeat(64)}.json` }] } as never, [
        { path: `${"0".repeat(64)}.json`, content: save.config },
      ]),
    ],
    ["missing layer", "archive-invalid", archiveOf({ ...save, layers: [layerTars[0]] })],
    [
      "missing config",
      "archive-invalid",
      archiveOf({ ...save, manifest: [{ ...image, Config: "x.json" }] } as never),
    ],
    [
      "layer outside the archive",
      "entry-escapes",
      archiveOf({ ...save, manifest: [{ ...image, Layers: ["../../etc/passwd", "x"] }] } as never),
    ],
    [
      "fewer layers than the config names",
      "archive-invalid",
      archiveOf({ ...save, manifest: [{ ...image, Layers: ["layer0/layer.tar"] }] } as never),
    ],
    ["two images", "ambiguous", archiveOf({ ...save, manifest: [image, image] } as never)],
    ["no image", "not-found", archiveOf({ ...save, manifest: [] })],
    ["manifest.json that is no list", "archive-invalid", archiveOf({ ...save, manifest: {} } as never)],
    [
      "name that is there twice",
      "archive-invalid",
      archiveOf(save, [{ path: "./manifest.json", content: "[]" }]),
    ],
    ["link that leads nowhere", "archive-invalid", archiveOf(save, [{ path: "l", target: "/etc/passwd" }])],
    ["nothing of an image", "archive-invalid", tarOf([{ path: "x" }])],
    ["compressed archive", "archive-invalid", gzipSync(archiveOf(save))],
    ["archive that is cut off", "tar-truncated", archiveOf(save).subarray(0, 1500)],
    [
      "archive of 10^4 names and more",
      "limit",
      Buffer.concat(Array.from({ length: 10_001 }, (_, i) => rawEntry({ name: `n${i}` }))),
    ],
  ]
  test.each(cases)("I10: %s: %s", async (_name, code, bytes) => {
    expect(await codeOf(() => load(bytes))).toBe(code)
  })
})

describe("OCI archives", () => {
  test("are read where they are", async () => {
    const folder = temporaryFolder()
    await packImage(join(folder, "image"), {
      layers: [{ files: [{ path: "a", content: "one" }] }],
      compression: "gzip",
      tag: "v1",
    })
    const bytes = execFileSync("tar", ["-C", join(folder, "image"), "-c", "."])
    expect(await filesOf(load(bytes, "oci-archive:"))).toEqual(["a"])
    expect(await filesOf(load(bytes, "oci-archive:", ":v1"))).toEqual(["a"])
    expect(await filesOf(load(bytes, ""))).toEqual(["a"])
    expect(await codeOf(() => load(bytes, "oci-archive:", ":v2"))).toBe("not-found")
  })
})

const noSkopeo = hasProgram("skopeo") ? false : "skopeo is not installed (package skopeo)"
test.skipIf(noSkopeo)(
  `reads what skopeo writes, in every form${noSkopeo ? ` (skipped: ${noSkopeo})` : ""}`,
  async () => {
    const folder = temporaryFolder()
    await packImage(join(folder, "image"), {
      layers: [{ files: [{ path: "a", content: "one" }] }, { files: [{ path: "b" }, { path: ".wh.a" }] }],
    })
    const store = await ImageStore.open(join(folder, "store"))
    for (const [i, to] of ["oci:copy:t", "oci-archive:a.tar:t", "docker-archive:d.tar:app:t"].entries()) {
      execFileSync("skopeo", ["--insecure-policy", "copy", `oci:image:latest`, to], {
        cwd: folder,
        stdio: "pipe",
      })
      const source = to.replace(/:(copy|a\.tar|d\.tar):/, (_, file) => `:${join(folder, file)}:`)
      expect(await filesOf(store.load(source, { name: `app:${i}` }))).toEqual(["b"])
    }
  },
)
