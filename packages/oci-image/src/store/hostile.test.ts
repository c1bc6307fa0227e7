import { execFileSync } from "node:child_process"
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { describe, expect, test } from "vitest"
import {
  codeOf,
  type ManifestJson,
  plainLayer,
  sha256,
  type TestDescriptor,
  TestLayout,
  tarOf,
  temporaryFolder,
} from "../test-support/images.js"
import { ImageStore } from "./store.js"

const MANIFEST = "application/vnd.oci.image.manifest.v1+json"
const INDEX = "application/vnd.oci.image.index.v1+json"

interface Bench {
  readonly layout: TestLayout
  readonly store: ImageStore
  readonly storePath: string
  load(): Promise<string | undefined>
}

async function bench(): Promise<Bench> {
  const folder = temporaryFolder()
  const layout = new TestLayout(join(folder, "image"))
  const storePath = join(folder, "store")
  const store = await ImageStore.open(storePath)
  return { layout, store, storePath, load: () => codeOf(() => store.load(`oci:${layout.path}`)) }
}

/** Nothing was committed: no image, no part, no temporary file, no layer blob. */
function expectUntouched({ storePath }: Bench): void {
  for (const folder of ["images", "parts", "tmp", "leases", "refs"])
    expect(readdirSync(join(storePath, folder)), folder).toEqual([])
  expect(readdirSync(join(storePath, "blobs/sha256"))).toEqual([])
}

const layer = plainLayer([{ path: "a", content: "x".repeat(10_000) }])

describe("I8: content that is not what it claims to be", () => {
  const withLayer = (change: (layer: TestDescriptor) => object) => (manifest: ManifestJson) => ({
    ...manifest,
    layers: [change(manifest.layers[0] as TestDescriptor)],
  })
  const descriptors: readonly (readonly [string, string, (layer: TestDescriptor) => object])[] = [
    ["digest of other content", "blob-missing", l => ({ ...l, digest: `sha256:${"0".repeat(64)}` })],
    ["size too small", "size-mismatch", l => ({ ...l, size: l.size - 1 })],
    ["size too large", "size-mismatch", l => ({ ...l, size: l.size + 1 })],
    ["negative size", "manifest-invalid", l => ({ ...l, size: -1 })],
    ["size that is no number", "manifest-invalid", l => ({ ...l, size: "10" })],
    ["size beyond the limit", "limit", l => ({ ...l, size: 2 ** 50 })],
    ["sha512", "digest-invalid", l => ({ ...l, digest: `sha512:${"0".repeat(128)}` })],
    ["short digest", "digest-invalid", l => ({ ...l, digest: l.digest.slice(0, -1) })],
    [
      "upper-case digest",
      "digest-invalid",
      l => ({ ...l, digest: l.digest.toUpperCase().replace("SHA", "sha") }),
    ],
    [
      "digest with ../",
      "digest-invalid",
      l => ({ ...l, digest: `sha256:../../../../etc/${"0".repeat(48)}` }),
    ],
    ["digest with a line end", "digest-invalid", l => ({ ...l, digest: `${l.digest}\n` })],
    ["no digest", "digest-invalid", ({ mediaType, size }) => ({ mediaType, size })],
  ]
  test.each(descriptors)("I8: layer with %s: %s", async (_name, code, change) => {
    const b = await bench()
    b.layout.image([layer], withLayer(change))
    expect(await b.load()).toBe(code)
    expectUntouched(b)
  })

  test("I8: a changed byte in a layer is named with both digests, also when it spoils the format first", async () => {
    for (const at of [100, 600, 9000]) {
      const b = await bench()
      b.layout.image([layer])
      const spoiled = Buffer.from(layer.blob)
      spoiled[at] = (spoiled[at] as number) ^ 1
      writeFileSync(b.layout.blobPath(sha256(layer.blob)), spoiled)
      await expect(b.store.load(`oci:${b.layout.path}`)).rejects.toMatchObject({
        code: "digest-mismatch",
        message: `digest mismatch for layer ${sha256(layer.blob)}: expected ${sha256(layer.blob)}, got ${sha256(spoiled)}`,
        fields: { expected: sha256(layer.blob), actual: sha256(spoiled) },
      })
      expectUntouched(b)
    }
  })

  test("I8: bytes after the declared size, or missing ones", async () => {
    for (const change of [Buffer.concat([layer.blob, Buffer.from("more")]), layer.blob.subarray(0, -1)]) {
      const b = await bench()
      b.layout.image([layer])
      writeFileSync(b.layout.blobPath(sha256(layer.blob)), change)
      expect(await b.load()).toBe("size-mismatch")
      expectUntouched(b)
    }
  })

  test("I8: an unpacked layer that is not the one the config names", async () => {
    const b = await bench()
    b.layout.image([
      {
        blob: gzipSync(layer.tar),
        tar: Buffer.from("other"),
        mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
      },
    ])
    expect(await b.load()).toBe("digest-mismatch")
    expectUntouched(b)
  })

  test("I8: a stored part is not taken for a layer whose config names another diff id", async () => {
    const b = await bench()
    b.layout.image([layer])
    await b.store.load(`oci:${b.layout.path}`)
    b.layout.image([{ blob: layer.blob, tar: Buffer.from("other") }])
    expect(await b.load()).toBe("digest-mismatch")
  })

  test.each(["manifest", "config"])("I8: a changed byte in the %s", async which => {
    const b = await bench()
    let config = ""
    const manifest = b.layout.image([layer], m => {
      config = m.config.digest
      return m
    })
    const path = b.layout.blobPath(which === "manifest" ? manifest.digest : config)
    const bytes = readFileSync(path)
    bytes[10] = (bytes[10] as number) ^ 1
    writeFileSync(path, bytes)
    expect(await b.load()).toBe("digest-mismatch")
    expectUntouched(b)
  })
})

describe("I9: documents with more than one reading", () => {
  const manifests: readonly (readonly [string, string, (m: ManifestJson) => object])[] = [
    ["manifest with manifests", "manifest-invalid", m => ({ ...m, manifests: [] })],
    ["manifest that says it is an index", "media-type", m => ({ ...m, mediaType: INDEX })],
    ["manifest of schema version 1", "manifest-invalid", m => ({ ...m, schemaVersion: 1 })],
    ["manifest without layers", "manifest-invalid", ({ layers: _, ...m }) => m],
    ["layers that are an object", "manifest-invalid", m => ({ ...m, layers: {} })],
    [
      "config of another kind",
      "media-type",
      m => ({ ...m, config: { ...m.config, mediaType: "application/vnd.wasm.config.v1+json" } }),
    ],
    [
      "layer of an unknown kind",
      "media-type",
      m => ({ ...m, layers: [{ ...m.layers[0], mediaType: "application/octet-stream" }] }),
    ],
    [
      "more layers than the config names",
      "config-invalid",
      m => ({ ...m, layers: [...m.layers, ...m.layers] }),
    ],
    ["fewer layers than the config names", "config-invalid", m => ({ ...m, layers: [] })],
    ["257 layers", "limit", m => ({ ...m, layers: Array(257).fill(m.layers[0]) })],
    [
      "layer declared as gzip that is none",
      "media-type",
      m => ({ ...m, layers: [{ ...m.layers[0], mediaType: "application/vnd.oci.image.layer.v1.tar+gzip" }] }),
    ],
  ]
  test.each(manifests)("I9: %s: %s", async (_name, code, change) => {
    const b = await bench()
    b.layout.image([layer], change)
    expect(await b.load()).toBe(code)
    expectUntouched(b)
  })

  test("I9: an index with layers or with a config", async () => {
    for (const extra of [{ layers: [] }, { config: {} }]) {
      const b = await bench()
      b.layout.index([b.layout.image([layer])], extra)
      expect(await b.load()).toBe("manifest-invalid")
    }
  })

  test("I9: a manifest behind an index descriptor, and an index behind a manifest descriptor", async () => {
    const b = await bench()
    const manifest = b.layout.image([layer])
    b.layout.index([{ ...manifest, mediaType: INDEX }])
    expect(await b.load()).toBe("manifest-invalid")
    const index = b.layout.put(INDEX, { schemaVersion: 2, manifests: [manifest] })
    b.layout.index([{ ...index, mediaType: MANIFEST }])
    expect(await b.load()).toBe("manifest-invalid")
  })

  test("I9: indexes inside indexes end at a depth", async () => {
    const b = await bench()
    let at = b.layout.image([layer])
    for (let i = 0; i < 5; i++) at = b.layout.put(INDEX, { schemaVersion: 2, manifests: [at] })
    b.layout.index([at])
    expect(await b.load()).toBe("limit")
  })

  test("I9: 10^5 manifests, and a document of many megabytes", async () => {
    const b = await bench()
    const manifest = b.layout.image([layer])
    b.layout.index(Array(2000).fill(manifest))
    expect(await b.load()).toBe("limit")
    b.layout.index(Array(100_000).fill(manifest))
    expect(await b.load()).toBe("limit")
    b.layout.index([b.layout.put(MANIFEST, Buffer.alloc(5 * 1024 * 1024, 0x20))])
    expect(await b.load()).toBe("limit")
    b.layout.index([{ ...manifest, size: 100 * 1024 * 1024 }])
    expect(await b.load()).toBe("limit")
  })

  test("I9: deep JSON, bad UTF-8, and JSON that is no object", async () => {
    const b = await bench()
    for (const bytes of [
      Buffer.from("[".repeat(2_000_000)),
      Buffer.from([0x7b, 0xff, 0x7d]),
      Buffer.from("[]"),
      Buffer.from("null"),
      Buffer.alloc(0),
    ]) {
      b.layout.index([b.layout.put(MANIFEST, bytes)])
      expect(await b.load()).toBe("json-invalid")
    }
  })

  const configs: readonly (readonly [string, string, object])[] = [
    ["rootfs of another type", "config-invalid", { rootfs: { type: "x", diff_ids: [] } }],
    ["no rootfs", "config-invalid", {}],
    ["diff id that is no digest", "digest-invalid", { rootfs: { type: "layers", diff_ids: ["x"] } }],
    ["environment without =", "config-invalid", { config: { Env: ["PATH"] } }],
    ["environment with NUL", "config-invalid", { config: { Env: ["A=b\0c"] } }],
    ["5,000 environment variables", "config-invalid", { config: { Env: Array(5000).fill("A=b") } }],
    ["command that is text", "config-invalid", { config: { Cmd: "/bin/sh" } }],
    ["relative working directory", "config-invalid", { config: { WorkingDir: "../x" } }],
    ["stop signal with spaces", "config-invalid", { config: { StopSignal: "SIG KILL" } }],
    ["port that is none", "config-invalid", { config: { ExposedPorts: { "80;rm": {} } } }],
    ["labels that are numbers", "config-invalid", { config: { Labels: { a: 1 } } }],
    ["image for another processor", "platform-missing", { architecture: "s390x" }],
  ]
  test.each(configs)("I9: config with %s: %s", async (_name, code, change) => {
    const b = await bench()
    const rootfs =
      code === "config-invalid" && "config" in change ? { type: "layers", diff_ids: [] } : undefined
    const config = {
      os: "linux",
      architecture: "amd64",
      ...(rootfs || code === "platform-missing" ? { rootfs: { type: "layers", diff_ids: [] } } : {}),
      ...change,
    }
    b.layout.image([], m => ({ ...m, config: b.layout.put(m.config.mediaType, config) }))
    expect(await b.load()).toBe(code)
    expectUntouched(b)
  })
})

describe("I10: layouts on disk", () => {
  test("I10: a blob that is a symlink is not followed", async () => {
    const b = await bench()
    const manifest = b.layout.image([layer])
    const path = b.layout.blobPath(manifest.digest)
    writeFileSync(join(b.layout.path, "elsewhere"), readFileSync(path))
    unlinkSync(path)
    symlinkSync("../../elsewhere", path)
    expect(await b.load()).toBe("source-invalid")
  })

  test("I10: nor is a symlinked index.json, blobs folder, or a fifo in place of a blob", async () => {
    const b = await bench()
    const manifest = b.layout.image([layer])
    const outside = temporaryFolder()
    execFileSync("cp", ["-r", join(b.layout.path, "blobs"), outside])

    unlinkSync(b.layout.blobPath(manifest.digest))
    execFileSync("mkfifo", [b.layout.blobPath(manifest.digest)])
    expect(await b.load()).toBe("source-invalid")

    rmSync(join(b.layout.path, "blobs"), { recursive: true })
    symlinkSync(join(outside, "blobs"), join(b.layout.path, "blobs"))
    expect(await b.load()).toBe("source-invalid")

    const index = readFileSync(join(b.layout.path, "index.json"))
    writeFileSync(join(outside, "index.json"), index)
    unlinkSync(join(b.layout.path, "index.json"))
    symlinkSync(join(outside, "index.json"), join(b.layout.path, "index.json"))
    expect(await b.load()).toBe("source-invalid")
  })

  test("I10: missing blobs, index.json and oci-layout", async () => {
    const b = await bench()
    const manifest = b.layout.image([layer])
    unlinkSync(b.layout.blobPath(sha256(layer.blob)))
    expect(await b.load()).toBe("blob-missing")
    unlinkSync(b.layout.blobPath(manifest.digest))
    expect(await b.load()).toBe("blob-missing")
    unlinkSync(join(b.layout.path, "index.json"))
    expect(await b.load()).toBe("source-invalid")
    unlinkSync(join(b.layout.path, "oci-layout"))
    expect(await b.load()).toBe("source-invalid")
    expect(await codeOf(() => b.store.load("oci:/nowhere/at/all"))).toBe("source-missing")
    expectUntouched(b)
  })

  test("I10: a blob that changes while it is read is noticed", async () => {
    const b = await bench()
    const big = plainLayer([{ path: "big", content: Buffer.alloc(4_000_000, "b") }])
    b.layout.image([big])
    const path = b.layout.blobPath(sha256(big.blob))
    const code = await codeOf(() =>
      b.store.load(`oci:${b.layout.path}`, { onProgress: () => truncateSync(path, 2_000_000) }),
    )
    expect(code).toBe("size-mismatch")
    expectUntouched(b)
  })

  test("I10: index.json replaced between reads can only give the old or the new image", async () => {
    const b = await bench()
    const old = b.layout.image([layer])
    const other = plainLayer([{ path: "new" }])
    const image = await b.store.load(`oci:${b.layout.path}`, {
      onProgress: () => void b.layout.image([other]),
    })
    expect(image.digest).toBe(old.digest)
    expect((await b.store.load(`oci:${b.layout.path}`)).digest).not.toBe(old.digest)
  })
})

describe("layers from hostile hands, through the whole store", () => {
  test("I1: a refused entry leaves no trace, in the store or beside it", async () => {
    const b = await bench()
    b.layout.image([
      plainLayer([
        { path: "ok", content: "x" },
        { path: "../../../escape", content: "x" },
      ]),
    ])
    expect(await b.load()).toBe("entry-escapes")
    expectUntouched(b)
  })

  test("I1: a hard link to nothing is found when layers are stacked", async () => {
    const b = await bench()
    b.layout.image([plainLayer([{ path: "l", type: "link", target: "missing" }])])
    expect(await b.load()).toBe("link-target")
    expect(readdirSync(join(b.storePath, "images"))).toEqual([])
    expect(await b.store.collectGarbage()).toBe(true)
    expectUntouched(b)
  })

  test("I7: devices and setuid files make nothing but bytes in the parts", async () => {
    const b = await bench()
    b.layout.image([
      plainLayer([
        { path: "sda", type: "block", major: 8 },
        { path: "su", content: "x", mode: 0o4755 },
        { path: "p", type: "fifo" },
      ]),
    ])
    await b.store.load(`oci:${b.layout.path}`)
    const kinds = readdirSync(b.storePath, { recursive: true, withFileTypes: true })
    expect(kinds.every(entry => entry.isFile() || entry.isDirectory())).toBe(true)
  })

  test("I5: a bomb, packed as gzip, leaves no part", async () => {
    const b = await bench()
    const tar = Buffer.concat([tarOf([{ path: "zeros", content: Buffer.alloc(100_000_000) }])])
    b.layout.image([{ blob: gzipSync(tar), tar, mediaType: "application/vnd.oci.image.layer.v1.tar+gzip" }])
    expect(await b.load()).toBe("limit")
    expectUntouched(b)
  })

  test("I14: a full disk or an unwritable store is an error with its errno", async () => {
    const b = await bench()
    b.layout.image([layer])
    rmSync(join(b.storePath, "tmp"), { recursive: true })
    writeFileSync(join(b.storePath, "tmp"), "in the way")
    await expect(b.store.load(`oci:${b.layout.path}`)).rejects.toMatchObject({
      code: "io",
      fields: { errno: "ENOTDIR" },
    })
    unlinkSync(join(b.storePath, "tmp"))
    mkdirSync(join(b.storePath, "tmp"))
    expect(await b.load()).toBeUndefined()
  })
})
