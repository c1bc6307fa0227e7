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
])

/**
 * The image named by a user: one of the store, or a folder or archive that is put into the store first. One
 * that is there already is opened without reading its layers.
 *
 * @throws SandboxError `image-not-found`, `image-invalid`, `no-space`, `aborted`
 */
export async function openImage(imageDir: string, name: string, options: LoadOptions): Promise<StoredImage> {
  const { signal } = options
  try {
    const store = await ImageStore.open(imageDir)
    if (parseSource(name)) return await store.load(name, options)
    const image = await store.get(name)
    if (!image)
      throw new ImageError(
        "not-found",
        "it is not in the store, and is no oci:DIR, oci-archive:FILE or docker-archive:FILE",
      )
    return image
  } catch (error) {
    if (signal?.aborted && error === signal.reason)
      throw new SandboxError("aborted", "loading the image was aborted", { cause: error })
    throw fromImageError(error, name)
  }
}

function fromImageError(error: unknown, name: string): unknown {
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
