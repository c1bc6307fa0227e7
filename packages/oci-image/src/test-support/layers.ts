import { readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { digestOf } from "../digest.js"
import { decodeLayerIndex, type LayerIndex } from "../layer/layer-index.js"
import { LayerSeries } from "../layer/layer-series.js"
import { DEFAULT_LIMITS, type ImageLimits } from "../limits.js"
import type { Compression } from "../spec/media-types.js"
import { StoreFolder } from "../store/folder.js"
import { makePart } from "../store/make-part.js"

/** A blob, how it is packed, and the tar stream that is in it. */
export interface LayerBlob {
  readonly blob: Buffer
  readonly tar?: Buffer
  readonly compression?: Compression
}

/** A zstd frame of RLE blocks: 4 bytes each that stand for `size` zeros. */
export function rleFrame(blocks: number, size: number): Buffer {
  const header = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58]) // window of 2 MiB
  const body = Buffer.alloc(blocks * 4)
  for (let i = 0; i < blocks; i++)
    body.writeUInt32LE((i === blocks - 1 ? 1 : 0) | (1 << 1) | (size << 3), i * 4)
  return Buffer.concat([header, body])
}

/** A part as the store has it. */
export interface MadePart extends LayerIndex {
  readonly data: Buffer
  /** Bytes of memory that the process that read the layer had at most. */
  readonly peak: number
}

/** Makes parts of layers in a store, through the process that reads layers, or one process for all of them. */
export class PartMaker implements AsyncDisposable {
  readonly folder: StoreFolder
  readonly #series: LayerSeries | undefined
  /** Memory that the last process had at most; 0 when it did not live to tell. */
  peak = 0

  private constructor(path: string, inSeries: boolean) {
    this.folder = new StoreFolder(path)
    const scratch = () => this.folder.scratch()
    this.#series = inSeries ? new LayerSeries({ scratch, limits: DEFAULT_LIMITS }) : undefined
  }

  static async open(path: string, inSeries = false): Promise<PartMaker> {
    const maker = new PartMaker(path, inSeries)
    await maker.folder.prepare()
    return maker
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#series?.end()
  }

  async make(layer: LayerBlob, limits: Partial<ImageLimits> = {}, signal?: AbortSignal): Promise<MadePart> {
    const { blob, tar = blob, compression = "none" } = layer
    this.peak = 0
    const digest = digestOf(blob)
    const source = {
      async *open() {
        for (let at = 0; at < blob.length; at += 65536) yield blob.subarray(at, at + 65536)
      },
    }
    await makePart({
      folder: this.folder,
      blobs: source,
      layer: { mediaType: "test", digest, size: blob.length, compression },
      diffId: digestOf(tar),
      limits: { ...DEFAULT_LIMITS, ...limits },
      keepBlob: false,
      series: this.#series,
      signal,
      onPeakMemory: bytes => {
        this.peak = bytes
      },
    })
    const part = this.folder.part(digest)
    const [index, data] = ["index", "data"].map(name => readFileSync(join(part, name)))
    rmSync(part, { recursive: true })
    return { ...decodeLayerIndex(index as Buffer), data: data as Buffer, peak: this.peak }
  }
}
