import {
  ImageError,
  type ImageErrorCode,
  type ImageSource,
  ImageStore,
  type LazyImage,
  type LoadOptions,
  parseSource,
  type StoredImage,
} from "@ts-vmm/oci-image"
import type { TrustGate } from "@ts-vmm/oci-image/policy"
import type { RegistryClient } from "@ts-vmm/oci-image/registry"
import type { ArrivingImage } from "./arriving-image.js"
import { SandboxError } from "./errors.js"
import type { SandboxOptions } from "./options.js"
import { defaultRegistriesFile } from "./paths.js"
import { admitImage, openTrustGate } from "./trust.js"

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
interface OpenImageOptions extends LoadOptions {
  readonly imageDir: string
  readonly pull: PullPolicy
  /** Per-host settings of registries; need not be there. */
  readonly registriesFile: string
  /** Which images may run; default `defaultPolicyFile()`, if it is there. */
  readonly policyFile?: string | undefined
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
 * The image that a sandbox is to run, ready.
 *
 * @param options - say how it is found
 * @throws SandboxError as {@link openImage}
 */
export async function imageOf(
  image: string | StoredImage,
  options: SandboxOptions,
  imageDir: string,
): Promise<OpenedImage> {
  const { pull = "missing", lazy = false, signal, onImageProgress } = options
  const { policyFile } = options
  if (typeof image !== "string") {
    await admitStoredImage(image, { imageDir, policyFile, ...(signal ? { signal } : {}) })
    return { image }
  }
  return openImage(image, {
    imageDir,
    pull,
    lazy,
    policyFile,
    registriesFile: options.registriesFile ?? defaultRegistriesFile(),
    ...(signal ? { signal } : {}),
    ...(onImageProgress ? { onProgress: onImageProgress } : {}),
  })
}

/**
 * The image named by a user: one of the store; a folder or archive that is put into the store first; or one that a
 * registry is asked for. One that is there already is opened without reading its layers.
 *
 * @throws SandboxError `image-not-found`, `image-unavailable`, `image-refused`, `image-invalid`, `no-space`, `aborted`
 */
async function openImage(name: string, options: OpenImageOptions): Promise<OpenedImage> {
  const { imageDir, signal } = options
  try {
    const store = await ImageStore.open(imageDir)
    const gate = await openTrustGate(imageDir, options.policyFile)
    const opened = await findImage(store, gate, name, options)
    await admit(store, gate, opened, name, signal)
    return opened
  } catch (error) {
    if (signal?.aborted && error === signal.reason)
      throw new SandboxError("aborted", "loading the image was aborted", { cause: error })
    throw fromImageError(error, name)
  }
}

/** An image that is refused goes as it came. */
async function admit(
  store: ImageStore,
  gate: TrustGate | undefined,
  { image, arriving }: OpenedImage,
  name: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  try {
    if (gate) await admitImage(gate, store, image, name, signal)
  } catch (error) {
    await arriving?.[Symbol.asyncDispose]()
    throw error
  }
}

/**
 * Asks the policy about an image of the store that a program has already.
 *
 * @throws SandboxError `image-refused`, `aborted`
 */
async function admitStoredImage(
  image: StoredImage,
  { imageDir, policyFile, signal }: Pick<OpenImageOptions, "imageDir" | "policyFile" | "signal">,
): Promise<void> {
  try {
    const gate = await openTrustGate(imageDir, policyFile)
    if (gate) await admitImage(gate, await ImageStore.open(imageDir), image, undefined, signal)
  } catch (error) {
    throw fromImageError(error, image.digest)
  }
}

async function findImage(
  store: ImageStore,
  gate: TrustGate | undefined,
  name: string,
  options: OpenImageOptions,
): Promise<OpenedImage> {
  if (parseSource(name)) return { image: await store.load(name, options) }
  const image = options.pull === "always" ? undefined : await store.get(name)
  return image ? { image } : await pullImage(store, gate, name, options)
}

async function pullImage(
  store: ImageStore,
  gate: TrustGate | undefined,
  name: string,
  options: OpenImageOptions,
): Promise<OpenedImage> {
  if (options.pull === "never") {
    const what = "it is not in the store, and is no oci:DIR, oci-archive:FILE or docker-archive:FILE"
    throw new ImageError("not-found", what)
  }
  // Loaded only here: a start from the store must not pay for an HTTP client.
  const { loadRegistryHosts, RegistryClient } = await import("@ts-vmm/oci-image/registry")
  const client = new RegistryClient({ hosts: loadRegistryHosts(options.registriesFile) })
  let arriving: ArrivingImage | undefined
  try {
    const source = await allowedSource(gate, client, name)
    const lazy = options.lazy ? await store.openLazy(source, options) : undefined
    arriving =
      lazy && new (await import("./arriving-image.js")).ArrivingImage({ store, client, name, image: lazy })
    const image = lazy ?? (await store.load(source, { ...options, name }))
    await source.keep()
    if (arriving) return { image, arriving }
    await client[Symbol.asyncDispose]()
    return { image }
  } catch (error) {
    await (arriving ?? client)[Symbol.asyncDispose]()
    throw error
  }
}

/** A registry's image as the policy allows it. */
async function allowedSource(
  gate: TrustGate | undefined,
  client: RegistryClient,
  name: string,
): Promise<ImageSource & { keep(): Promise<void> }> {
  const source = client.source(name)
  if (!gate) return Object.assign(source, { keep: async () => undefined })
  const { registrySignatures } = await import("@ts-vmm/oci-image/policy")
  const checked = gate.source({ source, reference: name, signatures: registrySignatures(client, name) })
  return Object.assign(checked, { keep: () => gate.keep(checked) })
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
  if (/^(policy|scan)-/.test(error.code))
    return new SandboxError("image-refused", error.message, { cause: error })
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
