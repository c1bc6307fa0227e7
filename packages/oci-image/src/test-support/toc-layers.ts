import { gzipSync } from "node:zlib"
import { type TarHandler, TarReader } from "../layer/tar-reader.js"
import { DEFAULT_LIMITS } from "../limits.js"
import { type PackFile, packFileItem } from "../pack/items.js"
import { encodeTarHeader, type TarHeaderFields, tarEnd, tarPadding } from "../pack/tar-writer.js"
import { skippableZstd, storedZstd } from "./stored-zstd.js"
import { sha256 } from "./test-layout.js"

/** A layer that carries a table of contents. */
export interface TocLayerBlob {
  readonly blob: Buffer
  readonly tar: Buffer
  readonly mediaType: string
  readonly annotations: Record<string, string>
}

/** An entry of a table of contents, as JSON. */
export type TocJson = Record<string, unknown>

/** The files of a tar stream, to make a layer of. */
export function filesOfTar(tar: Buffer): PackFile[] {
  const files: (PackFile & { content: Buffer })[] = []
  const handler: TarHandler = {
    entry: ({ path, type, mode, uid, gid, linkPath, devmajor: major, devminor: minor, mtime, xattrs }) =>
      files.push({
        ...{
          path: Buffer.from(path, "latin1"),
          target: Buffer.from(linkPath, "latin1"),
          type,
          mode,
          uid,
          gid,
        },
        ...{ major, minor, mtime: mtime.seconds, content: Buffer.alloc(0) },
        ...(xattrs ? { xattrs: Object.fromEntries(xattrs) } : {}),
      }),
    data: bytes => {
      const last = files.at(-1)
      if (last) last.content = Buffer.concat([last.content, bytes])
    },
    entryEnd: () => undefined,
  }
  new TarReader(handler, DEFAULT_LIMITS).push(tar)
  return files
}

/** How a layer is made, and what a test spoils. */
export interface TocLayerOptions {
  /** Bytes of a chunk; default 1000. */
  readonly chunkSize?: number
  /** Chunks, of files of at most this many bytes, share a gzip member; default: none do. */
  readonly shareBelow?: number
  /** Changes the table's entries before it is written, and its digest taken. */
  readonly change?: ((entries: TocJson[]) => unknown[]) | undefined
  /** The table's text in place of that of its entries. */
  readonly json?: ((entries: unknown[]) => Buffer) | undefined
  /** Changes the blob after the table's digest was taken. */
  readonly spoil?: ((blob: Buffer, toc: { start: number; end: number }) => Buffer) | undefined
  readonly annotate?: ((annotations: Record<string, string>) => Record<string, string>) | undefined
}

const TYPES: Readonly<Record<string, string>> = { file: "reg", directory: "dir", link: "hardlink" }
const GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
const ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
const ZSTD_CHUNKED_MAGIC = Buffer.from("GnUlInUx")

/** Writes pieces of a tar stream, each packed on its own where it is asked for. */
class MemberWriter {
  readonly #pack: (bytes: Buffer) => Buffer
  readonly #packed: Buffer[] = []
  readonly #tar: Buffer[] = []
  #open: Buffer[] = []
  size = 0

  constructor(pack: (bytes: Buffer) => Buffer) {
    this.#pack = pack
  }

  add(bytes: Buffer): void {
    this.#open.push(bytes)
    this.#tar.push(bytes)
  }

  /** Bytes in what is not packed yet. */
  get inner(): number {
    return this.#open.reduce((sum, { length }) => sum + length, 0)
  }

  /** Packs what was added, so that what follows begins anew. */
  cut(): void {
    if (this.#open.length === 0) return
    const packed = this.#pack(Buffer.concat(this.#open))
    this.#packed.push(packed)
    this.size += packed.length
    this.#open = []
  }

  get tar(): Buffer {
    return Buffer.concat(this.#tar)
  }

  get packed(): Buffer {
    return Buffer.concat(this.#packed)
  }
}

/** @see docs/estargz.md of `containerd/stargz-snapshotter` */
export function estargzLayer(files: readonly PackFile[], options: TocLayerOptions = {}): TocLayerBlob {
  const members = new MemberWriter(bytes => gzipSync(bytes))
  const entries = writeFiles(members, files, options, roundedTime)
  members.cut()
  const json = tocText(entries, options)
  const tocTar = Buffer.concat([
    encodeTarHeader(packFileItem({ path: "stargz.index.json", content: json }).header),
    json,
    tarPadding(json.length),
    tarEnd(),
  ])
  const start = members.size
  const packed = Buffer.concat([members.packed, gzipSync(tocTar)])
  const whole = Buffer.concat([packed, estargzFooter(start)])
  return {
    blob: options.spoil?.(whole, { start, end: packed.length }) ?? whole,
    tar: Buffer.concat([members.tar, tocTar]),
    mediaType: GZIP,
    annotations: annotated({ "containerd.io/snapshot/stargz/toc.digest": sha256(json) }, options),
  }
}

/** An empty gzip member whose header says where the table is. */
export function estargzFooter(start: number): Buffer {
  const extra = Buffer.from(`SG\x16\0${start.toString(16).padStart(16, "0")}STARGZ`, "latin1")
  const header = Buffer.from([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, extra.length, 0])
  return Buffer.concat([header, extra, Buffer.from([1, 0, 0, 0xff, 0xff]), Buffer.alloc(8)])
}

/** @see pkg/chunked of `containers/storage` */
export function zstdChunkedLayer(files: readonly PackFile[], options: TocLayerOptions = {}): TocLayerBlob {
  const members = new MemberWriter(storedZstd)
  const entries = writeFiles(members, files, options, exactTime)
  members.add(tarEnd())
  members.cut()
  const json = tocText(entries, options)
  const manifest = storedZstd(json)
  const start = members.size + 8
  const footer = Buffer.alloc(40)
  for (const [i, value] of [start, manifest.length, json.length, 1].entries())
    footer.writeBigUInt64LE(BigInt(value), 8 * i)
  ZSTD_CHUNKED_MAGIC.copy(footer, 32)
  const whole = Buffer.concat([members.packed, skippableZstd(manifest), skippableZstd(footer)])
  const prefix = "io.github.containers.zstd-chunked"
  return {
    blob: options.spoil?.(whole, { start, end: start + manifest.length }) ?? whole,
    tar: members.tar,
    mediaType: ZSTD,
    annotations: annotated(
      {
        [`${prefix}.manifest-checksum`]: sha256(manifest),
        [`${prefix}.manifest-position`]: `${start}:${manifest.length}:${json.length}:1`,
      },
      options,
    ),
  }
}

function annotated(
  annotations: Record<string, string>,
  { annotate }: TocLayerOptions,
): Record<string, string> {
  return annotate?.(annotations) ?? annotations
}

function tocText(entries: TocJson[], { change, json }: TocLayerOptions): Buffer {
  const changed = change?.(entries) ?? entries
  return json?.(changed) ?? Buffer.from(JSON.stringify({ version: 1, entries: changed }, undefined, "\t"))
}

function writeFiles(
  members: MemberWriter,
  files: readonly PackFile[],
  options: TocLayerOptions,
  time: (header: TarHeaderFields) => string,
): TocJson[] {
  return files.flatMap(file => {
    const { header } = packFileItem(file)
    const content = Buffer.from((file.content ?? "") as string)
    members.add(encodeTarHeader(header))
    const entry = entryJson(header, time)
    const chunks = content.length > 0 ? writeChunks(members, content, options) : []
    members.add(tarPadding(content.length))
    const first = { ...entry, ...chunks[0], digest: sha256(content) }
    const others = chunks.slice(1).map(chunk => ({ type: "chunk", name: entry.name, ...chunk }))
    return [chunks.length > 0 ? first : entry, ...others]
  })
}

function writeChunks(members: MemberWriter, content: Buffer, options: TocLayerOptions): TocJson[] {
  const { chunkSize = 1000, shareBelow = 0 } = options
  const chunks: TocJson[] = []
  for (let at = 0; at < content.length; at += chunkSize) {
    const chunk = content.subarray(at, at + chunkSize)
    if (content.length > shareBelow) members.cut()
    chunks.push({
      ...{ offset: members.size, chunkOffset: at, chunkDigest: sha256(chunk) },
      ...(members.inner > 0 ? { innerOffset: members.inner } : {}),
      ...(content.length > chunkSize ? { chunkSize: chunk.length } : {}),
    })
    members.add(chunk)
    if (content.length > shareBelow) members.cut()
  }
  return chunks
}

function entryJson(header: TarHeaderFields, time: (header: TarHeaderFields) => string): TocJson {
  const text = (bytes: string) => Buffer.from(bytes, "latin1").toString()
  const xattrs = [...(header.xattrs ?? [])].map(([name, value]) => [name, value.toString("base64")])
  return {
    type: TYPES[header.type] ?? header.type,
    name: text(header.path),
    mode: header.mode,
    uid: header.uid,
    gid: header.gid,
    size: header.size,
    modtime: time(header),
    ...(header.linkPath ? { linkName: text(header.linkPath) } : {}),
    ...(header.devmajor || header.devminor ? { devMajor: header.devmajor, devMinor: header.devminor } : {}),
    ...(xattrs.length > 0 ? { xattrs: Object.fromEntries(xattrs) } : {}),
  }
}

/** eStargz has whole seconds, and nothing for none. */
function roundedTime({ mtime }: TarHeaderFields): string {
  const seconds = Math.round(mtime.seconds + mtime.nanoseconds / 1e9)
  return seconds === 0 ? "" : new Date(seconds * 1000).toISOString().replace(".000Z", "Z")
}

function exactTime({ mtime }: TarHeaderFields): string {
  const whole = new Date(mtime.seconds * 1000).toISOString().slice(0, 19)
  return `${whole}.${String(mtime.nanoseconds).padStart(9, "0")}Z`
}
