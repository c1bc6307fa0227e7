import { ImageStore } from "@ts-vmm/oci-image"
import { defaultPaths } from "@ts-vmm/runtime"

/** The store that `run` takes its images from. */
export function openStore(): Promise<ImageStore> {
  return ImageStore.open(defaultPaths().imageDir)
}

/** The first digits of a digest, as lists show them. */
export function shortId(digest: string): string {
  return digest.replace(/^sha256:/, "").slice(0, 12)
}
