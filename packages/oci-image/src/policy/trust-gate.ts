import type { Digest } from "../digest.js"
import type { ReadableDisk } from "../erofs/disk-contents.js"
import { isImageError } from "../errors.js"
import type { Reference } from "../references.js"
import type { ImageSource } from "../sources/source.js"
import type { LoadOptions } from "../store/load-options.js"
import { admitStored } from "./admit.js"
import { admitRoot } from "./admit-root.js"
import { type Attachments, folderAttachments } from "./attachments.js"
import { CheckedSource } from "./checked-source.js"
import { asksNothing, type Policy } from "./policy.js"
import { decodeProvenance, encodeProvenance, mergeProvenance, type Provenance } from "./provenance.js"
import { Scanner } from "./scanner.js"
import type { SignatureSource } from "./signature-source.js"

/** What a gate needs of an image: a `StoredImage` or `LazyImage` is one. */
export interface GateImage {
  readonly digest: Digest
  disk(): ReadableDisk
}

/** What a gate needs of a store: an `ImageStore` is one. */
export interface GateStore<Image extends GateImage> {
  load(source: ImageSource, options: LoadOptions): Promise<Image>
}

/** An image on its way through a gate. */
export interface GateSourceOptions {
  /** Where the image is; it stays open. */
  readonly source: ImageSource
  /** The name that rules are looked up by: the one that its registry knows it by. */
  readonly reference?: string | Reference | undefined
  /** Where its signatures are. */
  readonly signatures?: SignatureSource | undefined
}

/** What is loaded through a gate; rules are looked up by `name` where there is no `reference`. */
export interface GateLoadOptions extends GateSourceOptions, LoadOptions {}

const PROVENANCE_FILE = "provenance.json"

/**
 * Stands before a store: images come in, and run, only as a policy allows. What proves an image is kept, and asked again
 * at every run.
 *
 * @example
 * ```ts
 * import { ImageStore } from "@ts-vmm/oci-image"
 * import { loadPolicy, registrySignatures, TrustGate } from "@ts-vmm/oci-image/policy"
 * import { RegistryClient } from "@ts-vmm/oci-image/registry"
 *
 * await using client = new RegistryClient()
 * const store = await ImageStore.open("./store")
 * const gate = new TrustGate(loadPolicy("./policy.json"), "./store/trust")
 *
 * const name = "registry.example/team/app:1"
 * const signatures = registrySignatures(client, name)
 * const image = await gate.load(store, { name, source: client.source(name), signatures }) // at a pull
 * await gate.admit(image, [name]) // before every run, without a network
 * ```
 */
export class TrustGate {
  readonly #policy: Policy
  readonly #folder: string
  readonly #scanner: Scanner | undefined

  /**
   * @param folder - what proves images, and what was found in them; private, as the store is
   */
  constructor(policy: Policy, folder: string) {
    this.#policy = policy
    this.#folder = folder
    this.#scanner = policy.scan && new Scanner(policy.scan)
  }

  /**
   * A source that gives an image only as the policy allows, for whoever brings it in without {@link load}:
   * `ImageStore.openLazy`, say. Then {@link keep} comes before the image runs.
   */
  source(options: GateSourceOptions): CheckedSource {
    return new CheckedSource({ policy: this.#policy, ...options })
  }

  /**
   * Keeps what proves the image that a source of this gate found.
   *
   * @throws ImageError `io`
   */
  async keep({ provenance }: CheckedSource): Promise<void> {
    if (!provenance) return
    const attachments = this.#attachments(provenance.digest)
    const older = readOlder(await attachments.get(PROVENANCE_FILE), provenance.digest)
    const whole = older ? mergeProvenance(older, provenance) : provenance
    await attachments.set(PROVENANCE_FILE, encodeProvenance(whole))
  }

  /**
   * Loads an image that the policy allows, and keeps what proves it.
   *
   * @throws ImageError `policy-denied`, `policy-digest`, `policy-unsigned`, `policy-signature` before anything is loaded;
   * what loading throws
   */
  async load<Image extends GateImage>(
    store: GateStore<Image>,
    { source, reference, signatures, ...options }: GateLoadOptions,
  ): Promise<Image> {
    await using checked = this.source({ source, reference: reference ?? options.name, signatures })
    const image = await store.load(checked, options)
    await this.keep(checked)
    return image
  }

  /**
   * Returns when an image of the store may run: the policy of now allows it, and the program that looks into images,
   * where there is one, accepted it, now or before.
   *
   * @param names - the name it is run by; when it is run by its digest, all names that it has
   * @throws ImageError `policy-…`, `scan-refused`, `scan-failed`; `store-corrupt`, `io`; the signal's reason
   */
  async admit(
    image: GateImage,
    names: readonly string[],
    options: { signal?: AbortSignal } = {},
  ): Promise<void> {
    const attachments = this.#attachments(image.digest)
    const record = asksNothing(this.#policy) ? undefined : await attachments.get(PROVENANCE_FILE)
    admitStored(this.#policy, { names, digest: image.digest, record })
    await this.#scanner?.check({ image, name: names[0] ?? "", attachments, ...options })
  }

  /**
   * Returns when a root file system that is no image may run: the policy's default decides, and where a program looks into
   * images it may not.
   *
   * @param what - how messages call it
   * @throws ImageError `policy-denied`, `scan-refused`
   */
  admitRoot(what: string): void {
    admitRoot(this.#policy, what)
  }

  #attachments(digest: Digest): Attachments {
    return folderAttachments(this.#folder, digest)
  }
}

/** One that is damaged is replaced. */
function readOlder(bytes: Uint8Array | undefined, digest: Digest): Provenance | undefined {
  try {
    return bytes && decodeProvenance(bytes, digest)
  } catch (error) {
    if (isImageError(error)) return undefined
    throw error
  }
}
