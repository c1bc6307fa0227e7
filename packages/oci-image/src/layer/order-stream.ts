import type { Readable } from "node:stream"
import type { LayerOrder, LayerTask } from "./layer-task.js"
import type { LayerInput } from "./read-layer.js"

const NEWLINE = 0x0a

/** One of the orders that a process gets, and the bytes that came with it. */
export interface Order {
  readonly task: LayerTask
  readonly input: LayerInput
}

/** What a process that reads layers is told, one order after the other. */
export class OrderStream {
  readonly #chunks: AsyncIterator<Buffer>
  #rest: Buffer = Buffer.alloc(0)

  constructor(stream: Readable) {
    this.#chunks = stream[Symbol.asyncIterator]()
  }

  /** The next order; the bytes of the last one have been read. Undefined at the end. */
  async next(): Promise<Order | undefined> {
    let line = this.#rest
    while (!line.includes(NEWLINE)) {
      const chunk = await this.#chunk()
      if (!chunk) return undefined
      line = Buffer.concat([line, chunk])
    }
    const end = line.indexOf(NEWLINE)
    this.#rest = line.subarray(end + 1)
    const { size, ...task } = JSON.parse(line.toString("utf8", 0, end)) as LayerOrder
    return { task, input: new OrderInput(size, max => this.#take(max)) }
  }

  /** Up to that many bytes of what follows. */
  async #take(max: number): Promise<Buffer | undefined> {
    const bytes = this.#rest.length > 0 ? this.#rest : await this.#chunk()
    this.#rest = bytes?.subarray(max) ?? Buffer.alloc(0)
    return bytes?.subarray(0, max)
  }

  async #chunk(): Promise<Buffer | undefined> {
    const { done, value } = await this.#chunks.next()
    return done ? undefined : value
  }
}

/** The bytes of one order. */
class OrderInput implements LayerInput {
  readonly #size: number
  readonly #take: (max: number) => Promise<Buffer | undefined>
  bytesRead = 0

  constructor(size: number, take: (max: number) => Promise<Buffer | undefined>) {
    this.#size = size
    this.#take = take
  }

  async next(): Promise<Buffer | undefined> {
    const left = this.#size - this.bytesRead
    const bytes = left > 0 ? await this.#take(left) : undefined
    this.bytesRead += bytes?.length ?? 0
    return bytes
  }

  async drain(): Promise<void> {
    while (await this.next());
  }

  async close(): Promise<void> {
    // The stream stays open: another order may follow.
  }
}
