import { type BigIntStats, constants } from "node:fs"
import { type FileHandle, lstat, open, readdir, readlink } from "node:fs/promises"
import { ImageError, ioError, printable } from "../errors.js"
import type { TarEntryType } from "../layer/tar-reader.js"
import { openFolder, readRange } from "../sources/beneath.js"
import type { PackItem } from "./items.js"

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK } = constants
const NS = 1_000_000_000n

/**
 * Walks a root folder in byte order of names. Every step is taken from an open folder and follows no symlink,
 * so a folder that is changed meanwhile cannot lead outside. Sockets are skipped. Extended attributes are not
 * read: Node has no call for them.
 *
 * @throws ImageError `source-missing`, `source-invalid` when something changes its kind meanwhile, `io`
 */
export async function* walkFolder(path: string): AsyncGenerator<PackItem> {
  const root = await openFolder(path)
  try {
    yield item(await root.stat({ bigint: true }), "directory", ".", "")
    yield* walkOpen(root, "", new Map())
  } catch (error) {
    throw (error as NodeJS.ErrnoException).syscall ? ioError(error, `cannot read ${printable(path)}`) : error
  } finally {
    await root.close()
  }
}

/**
 * Walks a file or folder like {@link walkFolder}; names begin with `name`.
 *
 * @param name - bytes (latin1 text)
 * @throws ImageError `source-missing`, `source-invalid` when something changes its kind meanwhile, `io`
 */
export async function* walkTree(path: string, name: string): AsyncGenerator<PackItem> {
  const stats = await lstat(path, { bigint: true }).catch(error => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR")
      throw new ImageError("source-missing", `no such file or folder: ${printable(path)}`, { path })
    throw ioError(error, `cannot read ${printable(path)}`)
  })
  const type = typeOf(stats)
  if (type === "directory") {
    for await (const one of walkFolder(path)) yield below(name, one)
  } else if (type) yield* fileItem(Buffer.from(path), stats, type, name, new Map())
}

function below(name: string, { header, ...rest }: PackItem): PackItem {
  const path = header.path === "." ? `${name}/` : `${name}/${header.path}`
  const linkPath = header.type === "link" ? `${name}/${header.linkPath}` : header.linkPath
  return { ...rest, header: { ...header, path, linkPath } }
}

/** Paths of files with several names, by device and inode. */
type Seen = Map<string, string>

async function* walkOpen(folder: FileHandle, prefix: string, seen: Seen): AsyncGenerator<PackItem> {
  const names = (await readdir(`/proc/self/fd/${folder.fd}`, { encoding: "buffer" })).sort(Buffer.compare)
  for (const name of names) {
    const at = Buffer.concat([Buffer.from(`/proc/self/fd/${folder.fd}/`), name])
    const path = prefix + name.toString("latin1")
    const stats = await lstat(at, { bigint: true })
    const type = typeOf(stats)
    if (type === "directory") yield* walkDirectory(at, stats, path, seen)
    else if (type) yield* fileItem(at, stats, type, path, seen)
  }
}

async function* walkDirectory(
  at: Buffer,
  stats: BigIntStats,
  path: string,
  seen: Seen,
): AsyncGenerator<PackItem> {
  yield item(stats, "directory", `${path}/`, "")
  const folder = await openSame(at, stats, O_DIRECTORY)
  try {
    yield* walkOpen(folder, `${path}/`, seen)
  } finally {
    await folder.close()
  }
}

async function* fileItem(
  at: Buffer,
  stats: BigIntStats,
  type: TarEntryType,
  path: string,
  seen: Seen,
): AsyncGenerator<PackItem> {
  if (stats.nlink > 1n) {
    const key = `${stats.dev}:${stats.ino}`
    const first = seen.get(key)
    if (first !== undefined) {
      yield item(stats, "link", path, first)
      return
    }
    seen.set(key, path)
  }
  if (type === "symlink") {
    const target = await readlink(at, { encoding: "buffer" })
    yield item(stats, type, path, target.toString("latin1"))
    return
  }
  const plain = item(stats, type, path, "")
  yield plain.header.size > 0 ? { ...plain, content: contentOf(at, stats) } : plain
}

async function* contentOf(at: Buffer, stats: BigIntStats): AsyncGenerator<Buffer> {
  const file = await openSame(at, stats, O_NONBLOCK)
  try {
    yield* readRange(file, 0, Number(stats.size) + 1)
  } finally {
    await file.close()
  }
}

/** Opens what `lstat` saw, and nothing else. */
async function openSame(at: Buffer, stats: BigIntStats, flags: number): Promise<FileHandle> {
  const file = await open(at, O_RDONLY | O_NOFOLLOW | flags)
  const now = await file.stat({ bigint: true })
  if (now.dev === stats.dev && now.ino === stats.ino && now.mode === stats.mode) return file
  await file.close()
  throw new ImageError("source-invalid", "a file was replaced while the folder was read")
}

function typeOf(stats: BigIntStats): TarEntryType | undefined {
  if (stats.isDirectory()) return "directory"
  if (stats.isFile()) return "file"
  if (stats.isSymbolicLink()) return "symlink"
  if (stats.isCharacterDevice()) return "char"
  if (stats.isBlockDevice()) return "block"
  return stats.isFIFO() ? "fifo" : undefined
}

function item(stats: BigIntStats, type: TarEntryType, path: string, linkPath: string): PackItem {
  return { header: header(stats, type, path, linkPath), stamp: { inode: stats.ino, changed: stats.ctimeNs } }
}

function header(stats: BigIntStats, type: TarEntryType, path: string, linkPath: string): PackItem["header"] {
  const nanoseconds = Number(((stats.mtimeNs % NS) + NS) % NS)
  return {
    type,
    path,
    linkPath,
    mode: Number(stats.mode) & 0o7777,
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    size: type === "file" ? Number(stats.size) : 0,
    mtime: { seconds: Number((stats.mtimeNs - BigInt(nanoseconds)) / NS), nanoseconds },
    devmajor: deviceMajor(stats.rdev),
    devminor: deviceMinor(stats.rdev),
    xattrs: undefined,
  }
}

/** @see glibc, gnu_dev_major */
function deviceMajor(rdev: bigint): number {
  return Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn))
}

/** @see glibc, gnu_dev_minor */
function deviceMinor(rdev: bigint): number {
  return Number((rdev & 0xffn) | ((rdev >> 12n) & ~0xffn & 0xffffffffn))
}
