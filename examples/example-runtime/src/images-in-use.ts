import type { Digest } from "@ts-vmm/oci-image"
import { Sandbox } from "@ts-vmm/runtime"

/** Digests of the images that sandboxes run now. */
export function imagesInUse(): Set<Digest> {
  const live = Sandbox.list().filter(({ status }) => status === "running" || status === "creating")
  return new Set(live.flatMap(({ imageDigest }) => imageDigest ?? []))
}
