import { ImageError, printable } from "../errors.js"
import type { TarEntryType } from "../layer/tar-reader.js"
import { encodeTarHeader, type TarHeaderFields, tarEnd, tarPadding } from "./tar-writer.js"

/** A file of a layer, described in code. Text is UTF-8; a Buffer is taken as it is. */
export interface PackFile {
  readonly path: string | Buffer
  /** Default: `file`, or what `target` or a trailing slash suggest: `symlink`, `directory`. */
  readonly type?: TarEntryType
  readonly content?: string | Uint8Array
  /** Default: 0755 for directories, 0777 for symlinks, else 0644. */
  readonly mode?: number
  readonly uid?: number
  readonly gid?: number
  /** Seconds since the epoch, fractions too. Default 0, so that the result is reproducible. */
  readonly mtime?: number
  /** Text of a symlink, or path that a hard link names. */
  readonly target?: string | Buffer
  readonly major?: number
  readonly minor?: number
  readonly xattrs?: Readonly<Record<string, string | Uint8Array>>
}

/** An entry with its content, ready to be written. */
export interface PackItem {
  readonly header: TarHeaderFields
  readonly content?: AsyncIterable<Buffer> | Iterable<Buffer>
  /** Changes whenever the file does. Files of folders only. */
  readonly stamp?: FileStamp
}

/** What tells a changed file from an unchanged one without reading it. */
export interface FileStamp {
  readonly inode: bigint
  /** Nanoseconds since the epoch of the last change of content or metadata. */
  readonly changed: bigint
}

/** Turns a described file into an item. */
export function packFileItem(file: PackFile): PackItem {
  const path = latin1(file.path)
  const type =
    file.type ?? (file.target !== undefined ? "symlink" : path.endsWith("/") ? "directory" : "file")
  const content = Buffer.from((file.content ?? "") as string)
  const mtime = file.mtime ?? 0
  const seconds = Math.floor(mtime)
  const xattrs = Object.entries(file.xattrs ?? {}).map(
    ([name, value]) => [name, Buffer.from(value as string)] as const,
  )
  return {
    header: {
      type,
      path,
      linkPath: latin1(file.target ?? ""),
      mode: file.mode ?? { directory: 0o755, symlink: 0o777 }[type as string] ?? 0o644,
      uid: file.uid ?? 0,
      gid: file.gid ?? 0,
      size: content.length,
      mtime: { seconds, nanoseconds: Math.round((mtime - seconds) * 1e9) },
      devmajor: file.major ?? 0,
      devminor: file.minor ?? 0,
      xattrs: xattrs.length > 0 ? new Map(xattrs) : undefined,
    },
    ...(content.length > 0 ? { content: [content] } : {}),
  }
}

function latin1(text: string | Buffer): string {
  return Buffer.from(text as string).toString("latin1")
}

/**
 * Writes items as a tar stream.
 *
 * @throws ImageError `source-invalid` when content is not as long as its header says
 */
export async function* tarStream(
  items: AsyncIterable<PackItem> | Iterable<PackItem>,
): AsyncGenerator<Buffer> {
  for await (const { header, content } of items) {
    yield encodeTarHeader(header)
    let size = 0
    for await (const chunk of content ?? []) {
      size += chunk.length
      if (size > header.size) break
      yield chunk
    }
    if (size !== header.size) {
      throw new ImageError("source-invalid", `file changed while it was read: ${printable(header.path)}`, {
        path: header.path,
      })
    }
    if (size > 0) yield tarPadding(size)
  }
  yield tarEnd()
}
