// Sentences of the OCI image specification 1.1 about documents, for whoever reads images; layers are in layer-spec.
import { readFileSync, writeFileSync } from "node:fs"
import { describe, expect, test } from "vitest"
import * as kit from "./kit.js"
import {
  AMD64,
  type Clause,
  contents,
  INDEX,
  type Json,
  LAYER,
  load,
  MANIFEST,
  OCI,
  put,
  type Recipe,
} from "./kit.js"

/** An image, and the code or the contents that loading it ends with. */
type ImageCase = Clause & { readonly recipe: Recipe; readonly expected: string | Record<string, string> }

/** The smallest zstd frame around some bytes: one block, not compressed. @see RFC 8878, 3.1.1 */
function storedZstd(bytes: Buffer): Buffer {
  const head = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0, 0, 0, 0])
  head.writeUInt32LE(bytes.length, 5)
  head.writeUIntLE(bytes.length * 8 + 1, 9, 3)
  return Buffer.concat([head, bytes])
}

const GOOD = { a: "one" }
const layerIs = (change: Json) => (manifest: Json) => ({
  ...manifest,
  layers: [{ ...manifest.layers[0], ...change }],
})
const with_ = (change: Json) => (document: Json) => ({ ...document, ...change })

const documents: readonly ImageCase[] = [
  {
    at: "descriptor.md, Properties, size",
    says: "If the length of the retrieved content does not match the specified length, the content SHOULD NOT be trusted.",
    here: "a blob longer than its descriptor says is refused",
    recipe: { manifest: m => layerIs({ size: m.layers[0].size - 1 })(m) },
    expected: "size-mismatch",
  },
  {
    at: "descriptor.md, Properties, size",
    says: "If the length of the retrieved content does not match the specified length, the content SHOULD NOT be trusted.",
    here: "a blob shorter than its descriptor says is refused",
    recipe: { manifest: m => layerIs({ size: m.layers[0].size + 1 })(m) },
    expected: "size-mismatch",
  },
  {
    at: "descriptor.md, Properties, mediaType",
    says: "This REQUIRED property contains the media type of the referenced content.",
    here: "a layer without one is refused",
    recipe: { manifest: layerIs({ mediaType: undefined }) },
    expected: "media-type",
  },
  {
    at: "descriptor.md, Properties, urls",
    says: "This OPTIONAL property specifies a list of URIs from which this object MAY be downloaded.",
    here: "nothing is fetched from them: a blob that is not there is missing",
    recipe: { manifest: layerIs({ digest: `sha256:${kit.ZEROS}`, urls: ["http://127.0.0.1:1/layer"] }) },
    expected: "blob-missing",
  },
  {
    at: "descriptor.md, Properties, data",
    says: "The decoded data MUST be identical to the referenced content and SHOULD be verified against the digest and size fields by content consumers.",
    here: "it is not consumed at all: other data changes nothing",
    recipe: { manifest: m => ({ ...m, config: { ...m.config, data: "e30=" } }) },
    expected: GOOD,
  },
  {
    at: "descriptor.md, Registered Algorithms",
    says: "Implementations MUST implement SHA-256 digest verification for use in descriptors.",
    here: "content of the right digest is taken",
    recipe: {},
    expected: GOOD,
  },
  {
    at: "descriptor.md, SHA-256",
    says: "When the algorithm identifier is sha256, the encoded portion MUST match /[a-f0-9]{64}/.",
    here: "another length is refused",
    recipe: { manifest: layerIs({ digest: "sha256:abc" }) },
    expected: "digest-invalid",
  },
  {
    at: "descriptor.md, SHA-256",
    says: "Note that [A-F] MUST NOT be used here.",
    here: "capital digits are refused",
    recipe: { manifest: m => layerIs({ digest: m.layers[0].digest.toUpperCase().replace("SHA", "sha") })(m) },
    expected: "digest-invalid",
  },
  {
    at: "descriptor.md, Digests",
    says: "Implementations SHOULD allow digests with unrecognized algorithms to pass validation if they comply with the above grammar.",
    here: "not followed for content that is needed: what cannot be verified is not used",
    recipe: { manifest: layerIs({ digest: `sha512:${kit.ZEROS}${kit.ZEROS}` }) },
    expected: "digest-invalid",
  },
  {
    at: "manifest.md, Properties, schemaVersion",
    says: "For this version of the specification, this MUST be 2",
    here: "another one is refused",
    recipe: { manifest: with_({ schemaVersion: 1 }) },
    expected: "manifest-invalid",
  },
  {
    at: "manifest.md, Properties, mediaType",
    says: "When used, this field MUST contain the media type application/vnd.oci.image.manifest.v1+json.",
    here: "a manifest that says that it is an index is refused",
    recipe: { manifest: with_({ mediaType: INDEX }) },
    expected: "media-type",
  },
  {
    at: "manifest.md, Properties, mediaType",
    says: "This property SHOULD be used",
    here: "a manifest without it is read as what its descriptor says",
    recipe: { manifest: with_({ mediaType: undefined }) },
    expected: GOOD,
  },
  {
    at: "manifest.md, Properties, artifactType",
    says: "Implementations storing or copying image manifests MUST NOT error on encountering an artifactType that is unknown to the implementation.",
    here: "it is kept and does not matter",
    recipe: { manifest: with_({ artifactType: "application/vnd.example+type" }) },
    expected: GOOD,
  },
  {
    at: "manifest.md, Properties, config",
    says: "This REQUIRED property references a configuration object for a container, by digest.",
    here: "a manifest without it is refused",
    recipe: { manifest: with_({ config: undefined }) },
    expected: "manifest-invalid",
  },
  {
    at: "manifest.md, Properties, config, mediaType",
    says: "Implementations MUST NOT attempt to parse the referenced content if this media type is unknown",
    here: "it is refused as no container image, not as bad JSON",
    recipe: { configType: "application/vnd.example.config", config: () => Buffer.from("{no json") },
    expected: "media-type",
  },
  {
    at: "manifest.md, Guidelines for Artifact Usage",
    says: "Content other than OCI container images MAY be packaged using the image manifest.",
    here: "an artifact of the empty type is no image to run",
    recipe: { configType: `${OCI}.empty.v1+json`, config: () => ({}) },
    expected: "media-type",
  },
  {
    at: "manifest.md, Properties, layers",
    says: "Each item in the array MUST be a descriptor.",
    here: "something else is refused",
    recipe: { manifest: with_({ layers: [`sha256:${kit.ZEROS}`] }) },
    expected: "manifest-invalid",
  },
  {
    at: "manifest.md, Properties, layers",
    says: "Subsequent layers MUST then follow in stack order (i.e. from layers[0] to layers[len(layers)-1]).",
    here: "the last one wins",
    recipe: { files: ["one", "two", "three"].map(content => [{ path: "a", content }]) },
    expected: { a: "three" },
  },
  {
    at: "manifest.md, Properties, layers",
    says: "The final filesystem layout MUST match the result of applying the layers to an empty directory.",
    here: "no layers are an empty directory",
    recipe: { files: [] },
    expected: {},
  },
  ...[LAYER, `${LAYER}+gzip`].map(
    (layerType): ImageCase => ({
      at: "manifest.md, Properties, layers, mediaType",
      says: "Implementations MUST support at least the following media types",
      here: `${layerType} is read`,
      recipe: { layerType },
      expected: GOOD,
    }),
  ),
  ...[`${OCI}.image.layer.nondistributable.v1.tar`, `${OCI}.image.layer.nondistributable.v1.tar+gzip`].map(
    (layerType): ImageCase => ({
      at: "manifest.md, Properties, layers, mediaType",
      says: "Implementations MUST support at least the following media types",
      here: `${layerType} is not followed: these are deprecated, come from addresses of the image's choice, and are refused`,
      recipe: { layerType },
      expected: "layer-foreign",
    }),
  ),
  {
    at: "manifest.md, Properties, layers, mediaType",
    says: "Implementations storing or copying image manifests MUST NOT error on encountering a mediaType that is unknown to the implementation.",
    here: "to run such an image is something else, and refused; a push copies it (distribution-spec)",
    recipe: { layerType: "application/vnd.example.layer" },
    expected: "media-type",
  },
  {
    at: "manifest.md, Properties, subject",
    says: "This value defines a weak association to a separate Merkle Directed Acyclic Graph (DAG) structure",
    here: "an image loads without what it refers to",
    recipe: { manifest: with_({ subject: { mediaType: MANIFEST, digest: `sha256:${kit.ZEROS}`, size: 7 } }) },
    expected: GOOD,
  },
  {
    at: "layer.md, +zstd Media Types",
    says: "represents an application/vnd.oci.image.layer.v1.tar payload which has been compressed with zstd.",
    here: "it is read",
    recipe: { layerType: `${LAYER}+zstd`, pack: storedZstd },
    expected: GOOD,
  },
  {
    at: "media-types.md, Compatibility Matrix",
    says: "application/vnd.docker.image.rootfs.diff.tar.gzip: Interchangeable and fully compatible mime-types",
    here: "docker's manifest, config and layers are read",
    recipe: {
      manifestType: "application/vnd.docker.distribution.manifest.v2+json",
      configType: "application/vnd.docker.container.image.v1+json",
      layerType: "application/vnd.docker.image.rootfs.diff.tar.gzip",
    },
    expected: GOOD,
  },
  {
    at: "annotations.md, Rules",
    says: "Annotations MUST be a key-value map where both the key and value MUST be strings.",
    here: "a number is refused where annotations are read",
    recipe: { manifest: layerIs({ annotations: { "com.example.key": 1 } }) },
    expected: "manifest-invalid",
  },
  {
    at: "annotations.md, Rules",
    says: "While the value MUST be present, it MAY be an empty string.",
    here: "null is no value",
    recipe: { manifest: layerIs({ annotations: { "com.example.key": null } }) },
    expected: "manifest-invalid",
  },
  {
    at: "annotations.md, Rules",
    says: "While the value MUST be present, it MAY be an empty string.",
    here: "an empty one is taken",
    recipe: { manifest: layerIs({ annotations: { "com.example.key": "" } }) },
    expected: GOOD,
  },
  {
    at: "annotations.md, Rules",
    says: "If there are no annotations then this property MUST either be absent or be an empty map.",
    here: "an empty list is refused",
    recipe: { manifest: layerIs({ annotations: [] }) },
    expected: "manifest-invalid",
  },
  {
    at: "annotations.md, Rules",
    says: "Consumers MUST NOT generate an error if they encounter an unknown annotation key.",
    here: "it does not matter, on a manifest or a layer",
    recipe: {
      manifest: m => ({ ...layerIs({ annotations: { "x.y": "z" } })(m), annotations: { "x.y": "z" } }),
    },
    expected: GOOD,
  },
  {
    at: "annotations.md, Pre-Defined Annotation Keys, org.opencontainers.image.ref.name",
    says: "SHOULD only be considered valid when on descriptors on index.json within image layout.",
    here: "a manifest's own annotation gives it no name",
    recipe: { manifest: with_({ annotations: { "org.opencontainers.image.ref.name": "other" } }) },
    expected: "not-found",
  },
]

describe("image spec: descriptor, manifest, media types, annotations", () => {
  test.each(documents.map(one => [kit.title(one), one] as const))("%s", async (_, { recipe, expected }) => {
    const tag = expected === "not-found" ? ":other" : ""
    expect(contents(await load(layout => layout.index([put(layout, recipe)]), AMD64, tag))).toEqual(expected)
  })

  const spoiled: readonly (Clause & { spoil: (content: Buffer) => Buffer; expected: string })[] = [
    {
      at: "descriptor.md, Properties, digest",
      says: "Retrieved content SHOULD be verified against this digest when consumed via untrusted sources.",
      here: "other content of the same length is refused",
      spoil: content => Buffer.from(content).fill("x", 600, 601),
      expected: "digest-mismatch",
    },
    {
      at: "descriptor.md, Verification",
      says: "Before calculating the digest, the size of the content SHOULD be verified to reduce hash collision space.",
      here: "of content with both wrong, the size is told",
      spoil: () => Buffer.from("{}"),
      expected: "size-mismatch",
    },
    {
      at: "image-layout.md, Blobs",
      says: "The content of blobs/<alg>/<encoded> MUST match the digest <alg>:<encoded>",
      here: "content that goes on after its end is refused",
      spoil: content => Buffer.concat([content, Buffer.alloc(1)]),
      expected: "size-mismatch",
    },
  ]

  test.each(spoiled.map(one => [kit.title(one), one] as const))("%s", async (_, { spoil, expected }) => {
    const outcome = await load(layout => {
      const image = put(layout)
      const layer = JSON.parse(readFileSync(layout.blobPath(image.digest), "utf8")).layers[0]
      writeFileSync(layout.blobPath(layer.digest), spoil(readFileSync(layout.blobPath(layer.digest))))
      layout.index([image])
    })
    expect(contents(outcome)).toBe(expected)
  })
})
