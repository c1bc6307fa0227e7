import { parseReference, type Reference } from "../references.js"
import type { ImageSource } from "../sources/source.js"
import { Authorizer } from "./authorizer.js"
import { type CredentialSource, dockerCredentials } from "./credentials.js"
import type { RegistryHosts } from "./hosts.js"
import { RegistrySource } from "./registry-source.js"
import { Transport, type TransportOptions } from "./transport.js"

/** How registries are reached. */
export interface RegistryClientOptions extends TransportOptions {
  /** Settings of single registries, of `loadRegistryHosts`. Default: none. */
  readonly hosts?: RegistryHosts
  /** Default: what docker keeps, `dockerCredentials()`. */
  readonly credentials?: CredentialSource
}

/**
 * Reads images from registries that speak the OCI distribution protocol. It holds connections and tokens: use one for
 * many images, and close it.
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
  readonly #hosts: RegistryHosts
  readonly #transport: Transport
  readonly #authorizer: Authorizer

  constructor(options: RegistryClientOptions = {}) {
    this.#hosts = options.hosts ?? new Map()
    this.#transport = new Transport(options)
    this.#authorizer = new Authorizer(this.#transport, options.credentials ?? dockerCredentials())
  }

  /**
   * An image by its name, for `ImageStore.load`. Nothing is asked before it is read.
   *
   * @throws ImageError `reference-invalid`, `digest-invalid`; reading it throws `registry-…` codes
   */
  source(name: string | Reference): ImageSource {
    const reference = typeof name === "string" ? parseReference(name) : name
    return new RegistrySource(reference, {
      transport: this.#transport,
      authorizer: this.#authorizer,
      hosts: this.#hosts,
    })
  }

  /** Ends every connection. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#transport.close()
  }
}
