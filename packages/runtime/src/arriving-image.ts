import { setTimeout as sleep } from "node:timers/promises"
import { type ImageStore, isImageError, type LazyImage, parseReference } from "@ts-vmm/oci-image"
import type { RegistryClient } from "@ts-vmm/oci-image/registry"

/** Told at most this often that content does not come: a guest may ask for it over and over. */
const ERROR_GAP_MS = 1000
/** How long after a failure the rest is fetched again. */
const FILL_GAP_MS = 10_000
/** Codes of failures after which trying again may help, also when all has come. */
const MAY_PASS = /^(registry-|io$|layer-process$)/

/** What there is to arrive, and whence. */
export interface ArrivingParts {
  readonly store: ImageStore
  readonly client: RegistryClient
  readonly name: string
  readonly image: LazyImage
}

/** An image that a sandbox begins with before it is there: what was needed the last time comes first, then the rest. */
export class ArrivingImage implements AsyncDisposable {
  readonly image: LazyImage
  readonly #parts: ArrivingParts
  readonly #abort = new AbortController()
  /** Told what does not come. */
  onError: (error: Error) => void = () => undefined
  #toldAt = Number.NEGATIVE_INFINITY
  #filling: Promise<void> = Promise.resolve()
  /** Whether all that came is not what it should be: it does not become so later. */
  #isFalse = false

  constructor(parts: ArrivingParts) {
    this.#parts = parts
    this.image = parts.image
  }

  /** Begins to fetch what the last start needed. */
  begin(): void {
    this.#filling = this.#try(() => this.image.fillStart(this.#abort.signal)).then(() => undefined)
  }

  /** Begins to fetch the rest, for as long as it takes; in the end the image is in the store, under its name. */
  fill(): void {
    this.#filling = this.#filling.then(async () => {
      while (!(await this.#try(() => this.#fillOnce())) && !this.#abort.signal.aborted && !this.#isFalse)
        await sleep(FILL_GAP_MS, undefined, { signal: this.#abort.signal }).catch(() => undefined)
    })
  }

  async #fillOnce(): Promise<void> {
    const { store, client, name } = this.#parts
    const { signal } = this.#abort
    await this.image.fill(signal)
    // The image that was begun with, whatever its tag stands for by now.
    const reference = { ...parseReference(name), digest: this.image.digest }
    await store.load(client.source(reference), { name, signal })
  }

  /** Waits for a range of a part; one that does not come is told, besides being an I/O error in the guest. */
  async watch(coming: Promise<void>): Promise<void> {
    try {
      await coming
    } catch (error) {
      this.#tell(error as Error)
      throw error
    }
  }

  /** @returns whether it went well */
  async #try(work: () => Promise<unknown>): Promise<boolean> {
    try {
      await work()
      return true
    } catch (error) {
      this.#isFalse = this.image.isWhole && isImageError(error) && !MAY_PASS.test(error.code)
      this.#tell(error as Error, this.#isFalse)
      return false
    }
  }

  /** @param always - also shortly after another one */
  #tell(error: Error, always = false): void {
    const now = performance.now()
    if (this.#abort.signal.aborted || (!always && now - this.#toldAt < ERROR_GAP_MS)) return
    this.#toldAt = now
    this.onError(error)
  }

  /** Ends what is on its way. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort()
    await this.image[Symbol.asyncDispose]()
    await this.#filling
    await this.#parts.client[Symbol.asyncDispose]()
  }
}
