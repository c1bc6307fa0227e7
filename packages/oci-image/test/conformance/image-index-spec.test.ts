// Sentences of the OCI image specification 1.1 about indexes and layouts, for whoever reads images.
import { rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import type { Platform } from "../../src/spec/platform.js"
import type { TestLayout } from "../../src/test-support/images.js"
import * as kit from "./kit.js"
import { AMD64, type Clause, contents, INDEX, type Json, load, MANIFEST, put } from "./kit.js"

/** A layout, and the code or the content of `a` that loading its only index ends with. */
type IndexCase = Clause & {
  readonly build: (layout: TestLayout) => void
  readonly platform?: Platform
  readonly expected: string
}

const on = (architecture: string, variant?: string): Platform => ({
  os: "linux",
  architecture,
  ...(variant ? { variant } : {}),
})

/** An image whose file `a` says which it is. */
function image(layout: TestLayout, content: string, platform: Platform | undefined = AMD64): Json {
  const built = put(layout, { files: [[{ path: "a", content }]], config: c => ({ ...c, ...platform }) })
  return platform ? { ...built, platform } : built
}

/** An index document in the layout, and what leads to it. */
function index(layout: TestLayout, manifests: readonly Json[], change: Json = {}): Json {
  return layout.put(INDEX, { schemaVersion: 2, mediaType: INDEX, manifests, ...change })
}

/** A layout whose index.json leads to one index. */
const indexed =
  (entries: (layout: TestLayout) => Json[], change: Json = {}) =>
  (layout: TestLayout) =>
    layout.index([index(layout, entries(layout), change)])

const cases: readonly IndexCase[] = [
  {
    at: "image-index.md",
    says: "image consumers SHOULD be prepared to process them.",
    here: "the image for the platform is found",
    build: indexed(layout => [image(layout, "arm", on("arm64")), image(layout, "amd", on("amd64"))]),
    expected: "amd",
  },
  {
    at: "image-index.md, Properties, schemaVersion",
    says: "For this version of the specification, this MUST be 2",
    here: "another one is refused",
    build: indexed(layout => [image(layout, "a")], { schemaVersion: 1 }),
    expected: "manifest-invalid",
  },
  {
    at: "image-index.md, Properties, mediaType",
    says: "When used, this field MUST contain the media type application/vnd.oci.image.index.v1+json.",
    here: "an index that says that it is a manifest is refused",
    build: indexed(layout => [image(layout, "a")], { mediaType: MANIFEST }),
    expected: "media-type",
  },
  {
    at: "image-index.md, Properties, manifests",
    says: "While this property MUST be present, the size of the array MAY be zero.",
    here: "an index without it is refused",
    build: indexed(() => [], { manifests: undefined }),
    expected: "manifest-invalid",
  },
  {
    at: "image-index.md, Properties, manifests",
    says: "While this property MUST be present, the size of the array MAY be zero.",
    here: "an empty one has nothing for the platform",
    build: indexed(() => []),
    expected: "platform-missing",
  },
  {
    at: "image-index.md, Properties, manifests, mediaType",
    says: "An encountered mediaType that is unknown to the implementation MUST NOT generate an error.",
    here: "the entry is passed over",
    build: indexed(layout => {
      const strange = { mediaType: "application/vnd.example+json", digest: `sha256:${kit.ZEROS}`, size: 1 }
      return [{ ...strange, platform: AMD64 }, image(layout, "amd")]
    }),
    expected: "amd",
  },
  {
    at: "image-index.md, Properties, manifests, mediaType",
    says: "implementations SHOULD support the following media types: application/vnd.oci.image.index.v1+json (nested index)",
    here: "an index in an index is followed",
    build: indexed(layout => [{ ...index(layout, [image(layout, "amd")]), platform: AMD64 }]),
    expected: "amd",
  },
  {
    at: "image-index.md, Properties, manifests",
    says: "If multiple manifests match a client or runtime's requirements, the first matching entry SHOULD be used.",
    here: "of equals it is the first",
    build: indexed(layout => [image(layout, "first"), image(layout, "second")]),
    expected: "first",
  },
  {
    at: "image-index.md, Properties, manifests",
    says: "If multiple manifests match a client or runtime's requirements, the first matching entry SHOULD be used.",
    here: "not followed among variants that run: the highest is meant for this processor, whatever its place",
    build: indexed(layout => ["v6", "v7", "v8"].map(variant => image(layout, variant, on("arm", variant)))),
    platform: on("arm", "v7"),
    expected: "v7",
  },
  {
    at: "image-index.md, Platform Variants",
    says: "implementations SHOULD understand, variant values listed in the Platform Variants table.",
    here: "arm64 and arm64/v8 are the same",
    build: indexed(layout => [image(layout, "v8", on("arm64", "v8"))]),
    platform: on("arm64"),
    expected: "v8",
  },
  {
    at: "image-index.md, Properties, manifests, platform, architecture",
    says: "implementations SHOULD understand, values listed in the Go Language document for GOARCH.",
    here: "another architecture does not run",
    build: indexed(layout => [image(layout, "riscv", on("riscv64")), image(layout, "s390", on("s390x"))]),
    expected: "platform-missing",
  },
  {
    at: "image-index.md, Properties, manifests, platform",
    says: "This OPTIONAL property describes the minimum runtime requirements of the image.",
    here: "an only entry without it is taken, if its config fits",
    build: indexed(layout => [{ ...image(layout, "amd"), platform: undefined }]),
    expected: "amd",
  },
  {
    at: "image-index.md, Properties, manifests",
    says: "This REQUIRED property contains a list of manifests for specific platforms.",
    here: "I9: a document that could be a manifest too is refused",
    build: indexed(layout => [image(layout, "a")], { layers: [] }),
    expected: "manifest-invalid",
  },
  {
    at: "image-layout.md, Content, oci-layout",
    says: "It MUST exist",
    here: "a folder without it is none",
    build: layout => {
      layout.index([image(layout, "a")])
      rmSync(join(layout.path, "oci-layout"))
    },
    expected: "source-invalid",
  },
  {
    at: "image-layout.md, Content, oci-layout",
    says: "It MUST be a JSON object",
    here: "a list is refused",
    build: layout => marker(layout, "[]"),
    expected: "json-invalid",
  },
  {
    at: "image-layout.md, Content, oci-layout",
    says: "It MUST contain an imageLayoutVersion field",
    here: "one without it is refused",
    build: layout => marker(layout, "{}"),
    expected: "source-invalid",
  },
  {
    at: "image-layout.md, Content, oci-layout",
    says: "It MAY include additional fields",
    here: "they do not matter",
    build: layout => marker(layout, '{"imageLayoutVersion":"1.0.0","more":true}'),
    expected: "a",
  },
  {
    at: "image-layout.md, Content, index.json",
    says: "It MUST exist",
    here: "a folder without it is none",
    build: layout => void image(layout, "a"),
    expected: "source-invalid",
  },
  {
    at: "image-layout.md, Content, index.json",
    says: "It MUST be an image index JSON object.",
    here: "a manifest is refused",
    build: layout => {
      const manifest = { schemaVersion: 2, mediaType: MANIFEST, config: image(layout, "a"), layers: [] }
      writeFileSync(join(layout.path, "index.json"), JSON.stringify(manifest))
    },
    expected: "manifest-invalid",
  },
  {
    at: "image-layout.md, Blobs",
    says: "The blobs directory MAY contain blobs which are not referenced by any of the refs.",
    here: "they do not matter",
    build: layout => {
      layout.put("text/plain", Buffer.from("nobody's"))
      layout.index([image(layout, "a")])
    },
    expected: "a",
  },
  {
    at: "image-layout.md, Blobs",
    says: "in which case the missing blobs SHOULD be fulfilled by an external blob store.",
    here: "not followed: there is no other store to ask, the blob is missing",
    build: layout => {
      const built = image(layout, "a")
      layout.index([built])
      rmSync(layout.blobPath(built.digest))
    },
    expected: "blob-missing",
  },
  {
    at: "image-layout.md, index.json file",
    says: "an encountered mediaType that is unknown to the implementation MUST NOT generate an error.",
    here: "the entry is passed over",
    build: layout => {
      const strange = { mediaType: "application/xml", digest: `sha256:${kit.ZEROS}`, size: 1 }
      layout.index([strange, image(layout, "a")])
    },
    expected: "a",
  },
]

function marker(layout: TestLayout, text: string): void {
  layout.index([image(layout, "a")])
  writeFileSync(join(layout.path, "oci-layout"), text)
}

describe("image spec: index, layout", () => {
  test.each(cases.map(one => [kit.title(one), one] as const))(
    "%s",
    async (_, { build, platform, expected }) => {
      const found = contents(await load(build, platform))
      expect(typeof found === "string" ? found : found["a"]).toBe(expected)
    },
  )

  test('image-layout.md, index.json file: "org.opencontainers.image.ref.name" → a descriptor\'s name picks the image', async () => {
    const name = (text: string) => ({ annotations: { "org.opencontainers.image.ref.name": text } })
    const build = (layout: TestLayout) =>
      layout.index([
        { ...image(layout, "one"), ...name("v1") },
        { ...image(layout, "two"), ...name("v2") },
      ])
    expect(contents(await load(build, AMD64, ":v2"))).toEqual({ a: "two" })
    expect(contents(await load(build, AMD64, ":v3"))).toBe("not-found")
  })
})
