import { createHash } from "node:crypto"
import { checkDigest, type Digest, finishDigest } from "../../digest.js"
import { WholeInput } from "../../layer/bytes-input.js"
import { decompress } from "../../layer/decompress.js"
import { type TarEntry, TarReader } from "../../layer/tar-reader.js"
import { checkLimit, type ImageLimits } from "../../limits.js"
import type { Compression } from "../../spec/media-types.js"
import { invalidToc, type TocFormat, type TocPlace } from "./toc-place.js"

/** Most bytes of a table, packed and unpacked; `containers/storage` takes no longer ones either. */
export const TOC_PACKED_MAX = 16 * 1024 * 1024
export const TOC_MAX = 50 * 1024 * 1024

const TOC_TAR_NAME = "stargz.index.json"
/** @see docs/estargz.md of `containerd/stargz-snapshotter`, "Footer" */
const FOOTER_SIZE = 51
/** Fixed bytes of the footer's gzip header, and where the offset stands in it, in 16 hex digits before `STARGZ`. */
const FOOTER_EXTRA = "1a0053471600"
const FOOTER_EXTRA_AT = 10
const FOOTER_OFFSET_AT = 16

/** Bytes of the blob, from and up to. */
export type ReadBlob = (from: number, to: number) => Promise<Buffer>

/** A table of contents whose digest is proven; nothing else about it is. */
export interface ProvenToc {
  readonly format: TocFormat
  /** Where the table begins in the blob: no content of a file is behind it. */
  readonly start: number
  /** Bytes of {@link ProvenToc.chunks}. */
  readonly size: number
  /** How they are packed. */
  readonly compression: Compression
  /** Its JSON. */
  chunks(): AsyncIterable<Buffer>
}

/**
 * Fetches the table of contents of a layer, and proves it by the digest in the manifest's annotation.
 *
 * @param blobSize - in bytes
 * @throws ImageError `toc-invalid`, `digest-mismatch`, `limit`, and what reading throws
 */
export function fetchToc(
  place: TocPlace,
  blobSize: number,
  read: ReadBlob,
  limits: ImageLimits,
): Promise<ProvenToc> {
  return place.format === "estargz"
    ? fetchEstargz(place.digest, blobSize, read, limits)
    : fetchZstdChunked(place, read)
}

/** What is proven is the packed table. */
async function fetchZstdChunked(
  { format, digest, from, to, size }: TocPlace & { format: "zstd:chunked" },
  read: ReadBlob,
): Promise<ProvenToc> {
  checkSize(to - from, size)
  const packed = await read(from, to)
  checkDigest("table of contents", digest, finishDigest(createHash("sha256").update(packed)))
  return { format, start: from, size: packed.length, compression: "zstd", chunks: () => one(packed) }
}

/** What is proven is the JSON: it is unpacked once for that, and once more for whoever reads it. */
async function fetchEstargz(
  digest: Digest,
  blobSize: number,
  read: ReadBlob,
  limits: ImageLimits,
): Promise<ProvenToc> {
  const end = blobSize - FOOTER_SIZE
  if (end <= 0) throw invalidToc("the layer is too short to have one")
  const start = readFooter(await read(end, blobSize))
  if (start >= end) throw invalidToc("it lies outside the layer")
  checkSize(end - start, 0)
  const packed = await read(start, end)
  const chunks = () => jsonIn(packed, { ...limits, layerBytes: TOC_MAX })
  const hash = createHash("sha256")
  let size = 0
  for await (const chunk of chunks()) {
    hash.update(chunk)
    size += chunk.length
  }
  checkDigest("table of contents", digest, finishDigest(hash))
  return { format: "estargz", start, size, compression: "none", chunks }
}

function checkSize(packed: number, size: number): void {
  checkLimit("documentBytes", packed, TOC_PACKED_MAX, "size of a packed table of contents")
  checkLimit("documentBytes", size, TOC_MAX, "size of a table of contents")
}

/** @returns where the table begins in the blob */
function readFooter(footer: Buffer): number {
  const extra = footer.toString("hex", FOOTER_EXTRA_AT, FOOTER_OFFSET_AT)
  const text = footer.toString("latin1", FOOTER_OFFSET_AT, FOOTER_OFFSET_AT + 22)
  const [, offset] = /^([0-9a-f]{16})STARGZ$/.exec(text) ?? []
  const start = Number.parseInt(offset ?? "", 16)
  if (extra === FOOTER_EXTRA && Number.isSafeInteger(start)) return start
  throw invalidToc("the layer has no footer that says where it is")
}

/** The content of the one file in a packed tar stream. */
async function* jsonIn(packed: Buffer, limits: ImageLimits): AsyncGenerator<Buffer> {
  const pieces: Buffer[] = []
  let files = 0
  const entry = ({ path, type }: TarEntry) => {
    if (++files > 1 || path !== TOC_TAR_NAME || type !== "file")
      throw invalidToc("it is not where the layer says")
  }
  const data = (bytes: Buffer) => void pieces.push(Buffer.from(bytes))
  const tar = new TarReader({ entry, data, entryEnd: () => undefined }, limits)
  for await (const chunk of decompress(new WholeInput(packed), "gzip", limits)) {
    tar.push(chunk)
    yield* pieces.splice(0)
  }
  tar.end()
}

async function* one(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes
}
