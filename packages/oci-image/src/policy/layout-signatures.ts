import { ImageError } from "../errors.js"
import { DEFAULT_LIMITS } from "../limits.js"
import { readDocument } from "../sources/blob.js"
import { LayoutFolder } from "../sources/layout.js"
import { parseJsonObject } from "../spec/json.js"
import { type Descriptor, documentKind, readIndex } from "../spec/manifest.js"
import { OCI_INDEX } from "../spec/media-types.js"
import { SIGNATURE_LIMITS, type SignatureSource } from "./signature-source.js"

const NAME_ANNOTATION = "org.opencontainers.image.ref.name"
/** How `cosign save` marks the manifest of signatures in its layout, which has no name. */
const KIND_ANNOTATION = "kind"
const SIGNATURES_KIND = "dev.cosignproject.cosign/sigs"

/**
 * The signatures in an OCI image layout: what is named as a registry would tag it, or marked as `cosign save` does.
 *
 * @param path - the layout's folder
 * @throws ImageError `source-missing`, `source-invalid`, `io`
 * @see OCI image spec 1.1, image-layout.md
 */
export async function layoutSignatures(path: string): Promise<SignatureSource & AsyncDisposable> {
  const files = await LayoutFolder.open(path)
  return {
    async fetchManifest(tagOrDigest, signal) {
      const entry = (await entriesOf(files)).find(one => isMeant(one, tagOrDigest))
      const max = SIGNATURE_LIMITS.documentBytes
      return entry && (await readDocument(files, entry, "manifest of signatures", max, signal))
    },
    fetchBlob: (descriptor, max, signal) => readDocument(files, descriptor, "signed payload", max, signal),
    [Symbol.asyncDispose]: () => files[Symbol.asyncDispose](),
  }
}

async function entriesOf(files: LayoutFolder): Promise<readonly Descriptor[]> {
  const bytes = await files.readTop("index.json", DEFAULT_LIMITS.documentBytes)
  if (!bytes) throw new ImageError("source-invalid", "not an OCI image layout: index.json is missing")
  const { manifests } = readIndex(parseJsonObject(bytes, "index.json"), OCI_INDEX, DEFAULT_LIMITS)
  return manifests.filter(entry => documentKind(entry.mediaType) === "manifest")
}

function isMeant({ digest, annotations = {} }: Descriptor, tagOrDigest: string): boolean {
  if (tagOrDigest.startsWith("sha256:")) return digest === tagOrDigest
  const name = annotations[NAME_ANNOTATION]
  if (name !== undefined) return name === tagOrDigest || name.endsWith(`:${tagOrDigest}`)
  // Whose they are, each of them says itself.
  return annotations[KIND_ANNOTATION] === SIGNATURES_KIND
}
