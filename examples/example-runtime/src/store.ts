import { type Digest, ImageStore } from "@ts-vmm/oci-image"
import { defaultPaths, Sandbox } from "@ts-vmm/runtime"

/** The store that `run` takes its images from. */
export function openStore(): Promise<ImageStore> {
  return ImageStore.open(defaultPaths().imageDir)
}

/** Digests of the images that sandboxes run now. */
export function imagesInUse(): Set<Digest> {
  const live = Sandbox.list().filter(({ status }) => status === "running" || status === "creating")
  return new Set(live.flatMap(({ imageDigest }) => imageDigest ?? []))
}

/** The first digits of a digest, as lists show them. */
export function shortId(digest: string): string {
  return digest.replace(/^sha256:/, "").slice(0, 12)
}
