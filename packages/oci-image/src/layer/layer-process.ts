/**
 * The process that reads one layer: what is hostile is decoded here, where there is nothing to reach. It is
 * started by `LayerChild` with Node's permission model on, without environment, in `/`.
 *
 * | descriptor | |
 * | --- | --- |
 * | 0 | the compressed layer comes in; for its spans, its index; or its table of contents |
 * | 3, 4 | files for the data part and the index; for its spans, the blob and a file for them; or for spans and index |
 * | 5 | one line of JSON goes out |
 *
 * @packageDocumentation
 */

import { readFileSync, writeSync } from "node:fs"
import type { Readable } from "node:stream"
import { ioError } from "../errors.js"
import { type FoundSpans, findSpans } from "../lazy/find-spans.js"
import { encodeSpanIndex } from "../lazy/span-index.js"
import { readToc } from "../lazy/toc/read-toc.js"
import { decodeLayerIndex, type LayerIndex, writeLayerIndex } from "./layer-index.js"
import { encodeResult } from "./layer-result.js"
import {
  BLOB_FD,
  DATA_FD,
  INDEX_FD,
  type LayerTask,
  MEMORY_FILE,
  RESULT_FD,
  SPANS_FD,
  TOC_SPANS_FD,
  type TocTask,
} from "./layer-task.js"
import { DescriptorFile } from "./part-file.js"
import { PartWriter } from "./part-writer.js"
import { type LayerInput, readLayer } from "./read-layer.js"

class StreamInput implements LayerInput {
  readonly #stream: Readable
  readonly #chunks: AsyncIterator<Buffer>
  bytesRead = 0

  constructor(stream: Readable) {
    this.#stream = stream
    this.#chunks = stream[Symbol.asyncIterator]()
  }

  async next(): Promise<Buffer | undefined> {
    const { done, value } = await this.#chunks.next()
    if (done) return undefined
    this.bytesRead += value.length
    return value
  }

  async drain(): Promise<void> {
    while (await this.next());
  }

  async close(): Promise<void> {
    this.#stream.destroy()
  }
}

async function makePart({ compression, limits }: LayerTask): Promise<void> {
  const part = new PartWriter(new DescriptorFile(DATA_FD))
  const blob = new StreamInput(process.stdin)
  const { diffId, root } = await readLayer({ blob, compression, part, limits })
  writeIndex({ diffId, dataSize: part.size, root })
}

/** Writes nothing when there is nothing to find. */
async function findLayerSpans(task: LayerTask): Promise<void> {
  const pieces: Buffer[] = []
  for await (const chunk of process.stdin) pieces.push(chunk)
  const found = await findSpans(BLOB_FD, decodeLayerIndex(Buffer.concat(pieces)), task)
  if (found) writeSpans(SPANS_FD, found)
}

async function readTocApart(task: LayerTask): Promise<void> {
  const { layer, spans } = await readToc(new StreamInput(process.stdin), task as TocTask)
  writeSpans(TOC_SPANS_FD, spans)
  writeIndex(layer)
}

function writeSpans(fd: number, found: FoundSpans): void {
  // Of the data part, which only the caller has.
  const index = encodeSpanIndex({ ...found, dataDigest: Buffer.alloc(32) })
  try {
    new DescriptorFile(fd).writeAllSync(index, 0)
  } catch (error) {
    throw ioError(error, "cannot write a span index")
  }
}

function writeIndex(index: LayerIndex): void {
  const file = new DescriptorFile(INDEX_FD)
  let position = 0
  try {
    writeLayerIndex(index, bytes => {
      file.writeAllSync(bytes, position)
      position += bytes.length
    })
  } catch (error) {
    throw ioError(error, "cannot write a layer's index")
  }
}

/** The kernel's high-water mark; that of `getrusage` begins with the memory of the process that started this one. */
function peakMemory(): number {
  const [, kib] = /^VmHWM:\s*(\d+) kB$/m.exec(memoryStatus()) ?? []
  return 1024 * (kib === undefined ? process.resourceUsage().maxRSS : Number(kib))
}

function memoryStatus(): string {
  try {
    return readFileSync(MEMORY_FILE, "latin1")
  } catch {
    return "" // Not every system has it.
  }
}

function report(error?: unknown): void {
  writeSync(RESULT_FD, encodeResult(peakMemory(), error))
  process.exit()
}

const task = JSON.parse(process.argv[2] as string) as LayerTask
const WORK = { part: makePart, spans: findLayerSpans, toc: readTocApart }
WORK[task.purpose ?? "part"](task).then(() => report(), report)
