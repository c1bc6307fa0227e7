import { existsSync } from "node:fs"
import { join } from "node:path"
import {
  type ImageStore,
  type LazyImage,
  normalizeName,
  parseSource,
  type StoredImage,
} from "@ts-vmm/oci-image"
import type { TrustGate } from "@ts-vmm/oci-image/policy"
import { defaultPolicyFile } from "./paths.js"

/**
 * What stands between images and sandboxes; undefined when there is no policy, so that everything may run.
 *
 * @param imageDir - where the store is: what proves images is kept beside it
 * @param policyFile - a file that has to be there. Default: `defaultPolicyFile()`, which need not
 * @throws ImageError `policy-invalid` for a policy that cannot be read whole
 *
 * @example
 * ```ts
 * import { defaultPaths, openTrustGate } from "@ts-vmm/runtime"
 *
 * const gate = await openTrustGate(defaultPaths().imageDir)
 * console.log(gate ? "there is a policy" : "everything may run")
 * ```
 */
export async function openTrustGate(imageDir: string, policyFile?: string): Promise<TrustGate | undefined> {
  const { path, isNamed } = policyFile ? { path: policyFile, isNamed: true } : defaultPolicyFile()
  // The code is only loaded where there is something to ask; what cannot be looked at is for it to refuse.
  if (!isNamed && !existsSync(path)) return undefined
  const { loadPolicy, TrustGate } = await import("@ts-vmm/oci-image/policy")
  return new TrustGate(loadPolicy(path, { required: isNamed }), join(imageDir, "trust"))
}

/**
 * Returns when an image may run.
 *
 * @param name - what it was asked for by: a name of the image, or anything else that means it
 * @throws ImageError `policy-…`, `scan-…`; the signal's reason
 */
export async function admitImage(
  gate: TrustGate,
  store: ImageStore,
  image: StoredImage | LazyImage,
  name: string | undefined,
  signal?: AbortSignal,
): Promise<void> {
  await gate.admit(image, await namesOf(store, image, name), signal ? { signal } : {})
}

/** Its name; an image that was asked for by its digest has to be allowed under every name that it has. */
async function namesOf(
  store: ImageStore,
  { digest }: StoredImage | LazyImage,
  asked: string | undefined,
): Promise<readonly string[]> {
  const name = asked === undefined || parseSource(asked) ? undefined : asked
  // The usual case costs two small reads, however many images there are.
  if (name !== undefined && (await store.get(normalizeName(name)))?.digest === digest) return [name]
  const entry = (await store.list()).find(({ image }) => image.digest === digest)
  // One that is not in the store is on its way, by that name. An id is no name, though it may look like one.
  return entry ? entry.names : name === undefined ? [] : [name]
}
