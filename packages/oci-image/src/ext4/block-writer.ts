import { type PartFile, writeAll } from "../layer/part-file.js"

const PIECE = 1024 * 1024

/** Writes bytes at positions; those that follow each other go together. */
export class BlockWriter {
  readonly #file: Pick<PartFile, "write">
  #pending: Buffer[] = []
  #start = 0
  #end = 0

  constructor(file: Pick<PartFile, "write">) {
    this.#file = file
  }

  /** `bytes` must not change any more. */
  async write(bytes: Buffer, position: number): Promise<void> {
    if (position !== this.#end) await this.flush()
    if (this.#pending.length === 0) this.#start = position
    this.#pending.push(bytes)
    this.#end = position + bytes.length
    if (this.#end - this.#start >= PIECE) await this.flush()
  }

  async flush(): Promise<void> {
    const bytes = Buffer.concat(this.#pending)
    this.#pending = []
    if (bytes.length > 0) await writeAll(this.#file, bytes, this.#start)
  }
}
