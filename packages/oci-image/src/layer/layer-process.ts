/**
 * The process that reads layers: what is hostile is decoded here, where there is nothing to reach. It is
 * started by `LayerChild` with Node's permission model on, without environment, in `/`.
 *
 * | descriptor | |
 * | --- | --- |
 * | 0 | a line of JSON comes in, then the compressed layer, or its index to find its spans; then perhaps more of them |
 * | 3, 4 | empty files for the data part and the index; for its spans, the blob and a file for them |
 * | 5 | one line of JSON for each goes out |
 *
 * It ends with its input, and with the first layer that is refused.
 *
 * @packageDocumentation
 */

import { readFileSync, writeSync } from "node:fs"
import { ioError } from "../errors.js"
import { findSpans } from "../lazy/find-spans.js"
import { encodeSpanIndex } from "../lazy/span-index.js"
import { decodeLayerIndex, type ReadLayerIndex, writeLayerIndex } from "./layer-index.js"
import { encodeResult } from "./layer-result.js"
import { BLOB_FD, DATA_FD, INDEX_FD, type LayerTask, MEMORY_FILE, RESULT_FD, SPANS_FD } from "./layer-task.js"
import { OrderStream } from "./order-stream.js"
import { DescriptorFile } from "./part-file.js"
import { PartWriter } from "./part-writer.js"
import { type LayerInput, readLayer } from "./read-layer.js"

async function makePart({ compression, limits }: LayerTask, blob: LayerInput): Promise<void> {
  const part = new PartWriter(new DescriptorFile(DATA_FD))
  const read = await readLayer({ blob, compression, part, limits })
  writeIndex({ ...read, dataSize: part.size })
}

/** Writes nothing when there is nothing to find. */
async function writeSpans(task: LayerTask, input: LayerInput): Promise<void> {
  const pieces: Buffer[] = []
  for (let chunk = await input.next(); chunk; chunk = await input.next()) pieces.push(chunk)
  const found = await findSpans(BLOB_FD, decodeLayerIndex(Buffer.concat(pieces)), task)
  if (!found) return
  // Of the data part, which only the caller has.
  const index = encodeSpanIndex({ ...found, dataDigest: Buffer.alloc(32) })
  try {
    new DescriptorFile(SPANS_FD).writeAllSync(index, 0)
  } catch (error) {
    throw ioError(error, "cannot write a span index")
  }
}

function writeIndex(index: ReadLayerIndex): void {
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
}

async function work(orders: OrderStream): Promise<void> {
  for (let order = await orders.next(); order; order = await orders.next()) {
    const { task, input } = order
    await (task.purpose === "spans" ? writeSpans(task, input) : makePart(task, input))
    report()
  }
}

work(new OrderStream(process.stdin))
  .catch(report)
  .then(() => process.exit())
