import {
  ImageError,
  type ImageErrorCode,
  ImageStore,
  type LazyImage,
  type LoadOptions,
  parseSource,
  type StoredImage,
} from "@ts-vmm/oci-image"
import type { ArrivingImage } from "./arriving-image.js"
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
  /** Whether to begin before all of it is there, if that can be. */
  readonly lazy: boolean
}

/** An image to run from. */
export interface OpenedImage {
  readonly image: StoredImage | LazyImage
  /** Of an image that is not there yet. */
  readonly arriving?: ArrivingImage
}

/**
 * The image named by a user: one of the store; a folder or archive that is put into the store first; or one that a
 * registry is asked for. One that is there already is opened without reading its layers.
 *
 * @throws SandboxError `image-not-found`, `image-unavailable`, `image-invalid`, `no-space`, `aborted`
 */
export async function openImage(name: string, options: OpenImageOptions): Promise<OpenedImage> {
  const { imageDir, pull, signal } = options
  try {
    const store = await ImageStore.open(imageDir)
    if (parseSource(name)) return { image: await store.load(name, options) }
    const image = pull === "always" ? undefined : await store.get(name)
    return image ? { image } : await pullImage(store, name, options)
  } catch (error) {
    if (signal?.aborted && error === signal.reason)
      throw new SandboxError("aborted", "loading the image was aborted", { cause: error })
    throw fromImageError(error, name)
  }
}

async function pullImage(store: ImageStore, name: string, options: OpenImageOptions): Promise<OpenedImage> {
  if (options.pull === "never") {
    const what = "it is not in the store, and is no oci:DIR, oci-archive:FILE or docker-archive:FILE"
    throw new ImageError("not-found", what)
  }
  // Loaded only here: a start from the store must not pay for an HTTP client.
  const { loadRegistryHosts, RegistryClient } = await import("@ts-vmm/oci-image/registry")
  const client = new RegistryClient({ hosts: loadRegistryHosts(options.registriesFile) })
  let arriving: ArrivingImage | undefined
  try {
    const source = client.source(name)
    const lazy = options.lazy ? await store.openLazy(source, options) : undefined
    if (!lazy) return { image: await store.load(source, { ...options, name }) }
    const { ArrivingImage } = await import("./arriving-image.js")
    arriving = new ArrivingImage({ store, client, name, image: lazy })
    return { image: lazy, arriving }
  } finally {
    if (!arriving) await client[Symbol.asyncDispose]()
  }
}

/**
 * The error that a user sees for one of the image packages.
 *
 * @param name - of the image
 */
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
