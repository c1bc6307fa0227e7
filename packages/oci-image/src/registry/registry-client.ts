import { parseReference, type Reference } from "../references.js"
import type { BlobSource } from "../sources/blob.js"
import type { ImageSource } from "../sources/source.js"
import type { Descriptor } from "../spec/manifest.js"
import { Authorizer } from "./authorizer.js"
import { type CredentialSource, dockerCredentials } from "./credentials.js"
import type { RegistryHosts } from "./hosts.js"
import { Mirrors, type WarningListener } from "./mirrors.js"
import { type PushOptions, type PushResult, pushImage } from "./push.js"
import { listReferrers, type Referrer } from "./referrers.js"
import { RegistrySource } from "./registry-source.js"
import type { RegistryAccess } from "./session.js"
import { Transport, type TransportOptions } from "./transport.js"

/** How registries are reached. */
export interface RegistryClientOptions extends TransportOptions {
  /** Settings of single registries, of `loadRegistryHosts`. Default: none. */
  readonly hosts?: RegistryHosts
  /** Default: what docker keeps, `dockerCredentials()`. */
  readonly credentials?: CredentialSource
  /** Is told of a mirror that gave wrong content, and is left out for that. */
  readonly onWarning?: WarningListener
}

/**
 * Reads images from registries that speak the OCI distribution protocol, and writes them. It holds connections and
 * tokens: use one for many images, and close it.
 *
 * A registry is not trusted: whatever it sends is bounded, and checked against the digests it is reached by.
 *
 * @example
 * ```ts
 * import { ImageStore } from "@ts-vmm/oci-image"
 * import { RegistryClient } from "@ts-vmm/oci-image/registry"
 *
 * await using client = new RegistryClient()
 * const store = await ImageStore.open("./store")
 * const image = await store.load(client.source("debian:12"), { name: "debian:12" })
 * console.log(image.digest)
 * ```
 */
export class RegistryClient implements AsyncDisposable {
  readonly #access: RegistryAccess
  readonly #mirrors: Mirrors

  constructor(options: RegistryClientOptions = {}) {
    const transport = new Transport(options, options.hosts ?? new Map())
    const authorizer = new Authorizer(transport, options.credentials ?? dockerCredentials())
    this.#access = { transport, authorizer }
    this.#mirrors = new Mirrors(transport, options.onWarning)
  }

  /**
   * An image by its name, for `ImageStore.load`. Nothing is asked before it is read.
   *
   * @throws ImageError `reference-invalid`, `digest-invalid`; reading it throws `registry-…` codes
   */
  source(name: string | Reference): ImageSource {
    return new RegistrySource(referenceOf(name), this.#access, this.#mirrors)
  }

  /**
   * Sends an image, or an index with all of its images. Mirrors are left out. A push that breaks leaves the name as it
   * was, and does not send again what is there when it is repeated.
   *
   * @param root - the manifest or index: what `ImageSource.locate` found
   * @param blobs - where the content is: `ImageSource.blobs`
   * @throws ImageError `registry-…`, `media-type`, `manifest-invalid`, `limit`, and what reading the content throws
   * @see OCI distribution spec 1.1, "Push"
   * @example
   * ```ts
   * import { DEFAULT_LIMITS, hostPlatform, openSource } from "@ts-vmm/oci-image"
   * import { RegistryClient } from "@ts-vmm/oci-image/registry"
   *
   * await using client = new RegistryClient()
   * const opened = await openSource("oci:./hello:latest", DEFAULT_LIMITS)
   * if ("image" in opened) {
   *   await using image = opened.image
   *   const root = await image.locate({ platform: hostPlatform(), limits: DEFAULT_LIMITS })
   *   await client.push(root, image.blobs, "registry.example/team/hello:1")
   * }
   * ```
   */
  push(
    root: Descriptor,
    blobs: BlobSource,
    name: string | Reference,
    options: PushOptions = {},
  ): Promise<PushResult> {
    return pushImage(this.#access, referenceOf(name), root, blobs, options)
  }

  /**
   * Lists what refers to an image, its signatures for instance.
   *
   * @param name - with a digest
   * @param options - `artifactType`: only those
   * @throws ImageError `reference-invalid` without a digest, `registry-…`, `manifest-invalid`, `limit`
   * @see OCI distribution spec 1.1, "Listing Referrers"
   */
  referrers(
    name: string | Reference,
    options: { readonly artifactType?: string; readonly signal?: AbortSignal } = {},
  ): Promise<Referrer[]> {
    return listReferrers(this.#access, referenceOf(name), options.artifactType, options.signal)
  }

  /** Ends every connection. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#access.transport.close()
  }
}

function referenceOf(name: string | Reference): Reference {
  return typeof name === "string" ? parseReference(name) : name
}
