import { readFileSync } from "node:fs"
import { DEFAULT_LIMITS } from "../limits.js"
import type { BlobRequest } from "../sources/blob.js"
import { openSource } from "../sources/open.js"
import type { ImageSource } from "../sources/source.js"
import type { TestLayout } from "./images.js"

/** A layout as a registry is: parts of blobs can be read. It counts, and it can be lost. */
export class LazySource implements ImageSource {
  readonly #layout: TestLayout
  readonly #source: ImageSource
  bytes = 0
  /** Parts that were asked for. */
  readonly asked: [number, number][] = []
  isLost = false
  /** What comes in place of a part. */
  change: (bytes: Buffer) => Buffer = bytes => bytes

  private constructor(layout: TestLayout, source: ImageSource) {
    this.#layout = layout
    this.#source = source
  }

  static async open(layout: TestLayout): Promise<LazySource> {
    const opened = await openSource(`oci:${layout.path}`, DEFAULT_LIMITS)
    if (!("image" in opened)) throw new Error("the layout is no image")
    return new LazySource(layout, opened.image)
  }

  locate: ImageSource["locate"] = options => this.#source.locate(options)

  get blobs(): ImageSource["blobs"] {
    return {
      open: (request, signal) => this.#source.blobs.open(request, signal),
      range: async ({ digest }: BlobRequest, from, to) => {
        if (this.isLost) throw new Error("lost")
        this.asked.push([from, to])
        const bytes = readFileSync(this.#layout.blobPath(digest)).subarray(from, to)
        this.bytes += bytes.length
        return this.change(bytes)
      },
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#source[Symbol.asyncDispose]()
  }
}
