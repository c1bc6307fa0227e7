import {
  ImageError,
  type ImageErrorCode,
  ImageStore,
  type LoadOptions,
  parseSource,
  type StoredImage,
} from "@ts-vmm/oci-image"
import { SandboxError } from "./errors.js"

/** Codes that mean "there is no such image", as opposed to one that is there and refused. */
const NOT_FOUND: ReadonlySet<ImageErrorCode> = new Set<ImageErrorCode>([
  "not-found",
  "source-missing",
  "reference-invalid",
  "registry-not-found",
])

/** When a registry is asked for an image: if the store does not have it, every time, or not at all. */
export type PullPolicy = "missing" | "always" | "never"

/** How {@link openImage} finds an image. */
export interface OpenImageOptions extends LoadOptions {
  readonly imageDir: string
  readonly pull: PullPolicy
  /** Per-host settings of registries; need not be there. */
  readonly registriesFile: string
}

/**
 * The image named by a user: one of the store; a folder or archive that is put into the store first; or one that a
 * registry is asked for. One that is there already is opened without reading its layers.
 *
 * @throws SandboxError `image-not-found`, `image-unavailable`, `image-invalid`, `no-space`, `aborted`
 */
export async function openImage(name: string, options: OpenImageOptions): Promise<StoredImage> {
  const { imageDir, pull, signal } = options
  try {
    const store = await ImageStore.open(imageDir)
    if (parseSource(name)) return await store.load(name, options)
    const image = pull === "always" ? undefined : await store.get(name)
    return image ?? (await pullImage(store, name, options))
  } catch (error) {
    if (signal?.aborted && error === signal.reason)
      throw new SandboxError("aborted", "loading the image was aborted", { cause: error })
    throw fromImageError(error, name)
  }
}

async function pullImage(store: ImageStore, name: string, options: OpenImageOptions): Promise<StoredImage> {
  if (options.pull === "never") {
    const what = "it is not in the store, and is no oci:DIR, oci-archive:FILE or docker-archive:FILE"
    throw new ImageError("not-found", what)
  }
  // Loaded only here: a start from the store must not pay for an HTTP client.
  const { loadRegistryHosts, RegistryClient } = await import("@ts-vmm/oci-image/registry")
  await using client = new RegistryClient({ hosts: loadRegistryHosts(options.registriesFile) })
  return await store.load(client.source(name), { ...options, name })
}

/** Turns an error of the image package into one of ours; others pass. */
export function fromImageError(error: unknown, name: string): unknown {
  if (!(error instanceof ImageError)) return error
  if (causeCode(error) === "ENOSPC") {
    return new SandboxError(
      "no-space",
      `no space left while storing the image ${name}: free some disk, or set TS_VMM_IMAGE_DIR`,
      {
        cause: error,
      },
    )
  }
  if (NOT_FOUND.has(error.code))
    return new SandboxError("image-not-found", `no such image: ${name} (${error.message})`, { cause: error })
  if (error.code.startsWith("registry-"))
    return new SandboxError("image-unavailable", `cannot pull ${name}: ${error.message}`, { cause: error })
  return new SandboxError("image-invalid", `image ${name}: ${error.message}`, { cause: error })
}

/** The errno name at the bottom of a chain of causes. */
function causeCode(error: Error): string | undefined {
  for (let at: unknown = error.cause; at instanceof Error; at = at.cause) {
    const code = (at as NodeJS.ErrnoException).code
    if (code?.startsWith("E")) return code
  }
  return undefined
}
