import { createHash, type Hash } from "node:crypto"
import { deflateRawSync } from "node:zlib"
import type { Checkpoint } from "./checkpoints.js"
import { WINDOW_SIZE } from "./read-span.js"
import type { Packing, Span } from "./span-index.js"

/** Takes a tar stream as it is unpacked, and makes spans of it: their digests, and what they refer back to. */
export class SpanCutter {
  readonly #checkpoints: readonly Checkpoint[]
  readonly #hasWindow: boolean
  readonly #spans: Span[] = []
  #at = 0
  #hash: Hash = createHash("sha256")
  #window: Buffer = Buffer.alloc(0)
  /** The last bytes before {@link #at}. */
  #tail: Buffer = Buffer.alloc(0)

  /** @param checkpoints - where spans begin, and the end */
  constructor(checkpoints: readonly Checkpoint[], packing: Packing) {
    this.#checkpoints = checkpoints
    this.#hasWindow = packing === "deflate"
  }

  push(chunk: Buffer): void {
    for (let done = 0; done < chunk.length; ) {
      const end = this.#checkpoints[this.#spans.length + 1]?.output ?? Number.POSITIVE_INFINITY
      const piece = chunk.subarray(done, done + Math.min(chunk.length - done, end - this.#at))
      this.#hash.update(piece)
      this.#remember(piece)
      this.#at += piece.length
      done += piece.length
      if (this.#at === end) this.#cut()
    }
  }

  /** @returns undefined when the stream was not as long as the checkpoints say */
  finish(): Span[] | undefined {
    const isWhole = this.#spans.length === this.#checkpoints.length - 1
    return isWhole && this.#at === this.#checkpoints.at(-1)?.output ? this.#spans : undefined
  }

  #remember(piece: Buffer): void {
    if (!this.#hasWindow) return
    const all = piece.length >= WINDOW_SIZE ? piece : Buffer.concat([this.#tail, piece])
    this.#tail = Buffer.from(all.subarray(-WINDOW_SIZE))
  }

  #cut(): void {
    const number = this.#spans.length
    const [here, next] = this.#checkpoints.slice(number, number + 2) as [Checkpoint, Checkpoint]
    this.#spans.push({
      from: Math.floor(here.bit / 8),
      to: Math.ceil(next.bit / 8),
      bit: here.bit % 8,
      skip: 0,
      start: here.output,
      end: next.output,
      digest: this.#hash.digest(),
      window: this.#window,
    })
    this.#hash = createHash("sha256")
    const isAlone = next.isFirst || !this.#hasWindow
    this.#window = isAlone ? Buffer.alloc(0) : deflateRawSync(this.#tail)
  }
}
