import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import type { ImageDisk } from "@ts-vmm/oci-image"
import { readDiskBytes, readErofs } from "../../../packages/oci-image/src/test-support/erofs-reader.js"

/** What is compared of a file, as one line. */
type Seen = string

/** Every file below a folder by its path; names are latin1 text. Python has calls for attributes and exact times. */
const LIST = `
import hashlib, json, os, stat, sys
root = os.fsencode(sys.argv[1])
def see(path):
    at = os.path.join(root, path)
    is_ = os.lstat(at)
    content = b""
    if stat.S_ISREG(is_.st_mode): content = open(at, "rb").read()
    if stat.S_ISLNK(is_.st_mode): content = os.readlink(at)
    names = sorted(os.listxattr(at, follow_symlinks=False))
    device = is_.st_rdev if stat.S_ISCHR(is_.st_mode) or stat.S_ISBLK(is_.st_mode) else 0
    print(json.dumps([
        path.decode("latin1"), is_.st_mode, is_.st_uid, is_.st_gid, str(is_.st_mtime_ns),
        os.major(device), os.minor(device), len(content), hashlib.sha256(content).hexdigest(),
        {name: os.getxattr(at, name, follow_symlinks=False).hex() for name in names},
        "" if stat.S_ISDIR(is_.st_mode) or is_.st_nlink < 2 else str(is_.st_ino)]))
    if stat.S_ISDIR(is_.st_mode):
        for name in os.listdir(at): see(os.path.join(path, name))
see(b"")
`

/** What a Linux kernel shows of a folder. */
export function seenInFolder(root: string): Map<string, Seen> {
  const lines = execFileSync("python3", ["-c", LIST, root], { encoding: "utf8", maxBuffer: 1 << 28 })
  const files = lines
    .trim()
    .split("\n")
    .map(line => JSON.parse(line) as [string, ...unknown[]])
    .map(([path, ...facts]) => ({ path, facts: facts.slice(0, -1), inode: facts.at(-1) as string }))
  return withLinks(files)
}

/** What a second reader of the EROFS format, written for tests, sees on a disk. */
export function seenOnDisk(disk: ImageDisk): Map<string, Seen> {
  const files = [...readErofs(readDiskBytes(disk))].map(([path, file]) => {
    const mtime = BigInt(file.mtime) * 1_000_000_000n + BigInt(file.nsec)
    const { mode, uid, gid, content, nlink, nid, rdev } = file
    const device = [(rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >>> 12) & 0xfff00)]
    const hash = createHash("sha256").update(content).digest("hex")
    const isFolder = (mode & 0o170000) === 0o040000
    const [size, digest] = isFolder ? [0, EMPTY] : [content.length, hash]
    const xattrs = [...file.xattrs].sort(([a], [b]) => (a < b ? -1 : 1))
    const attributes = xattrs.map(([name, value]) => [name, Buffer.from(value, "latin1").toString("hex")])
    const facts = [mode, uid, gid, `${mtime}`, ...device, size, digest, Object.fromEntries(attributes)]
    return { path, facts, inode: isFolder || nlink < 2 ? "" : `${nid}` }
  })
  return withLinks(files)
}

const EMPTY = createHash("sha256").digest("hex")

interface Listed {
  readonly path: string
  readonly facts: readonly unknown[]
  /** Of a file with several names. */
  readonly inode: string
}

/** Inode numbers mean nothing elsewhere: files are told by all their names. */
function withLinks(files: readonly Listed[]): Map<string, Seen> {
  const groups = new Map<string, string[]>()
  for (const { path, inode } of files)
    if (inode !== "") groups.set(inode, [...(groups.get(inode) ?? []), path].sort())
  return new Map(
    files.map(({ path, facts, inode }) => [path, JSON.stringify([...facts, groups.get(inode) ?? []])]),
  )
}

/** In words, at most so many that a message can hold. */
export function differences(is: Map<string, Seen>, wanted: Map<string, Seen>): string[] {
  const paths = new Set([...is.keys(), ...wanted.keys()])
  const differing = [...paths].filter(path => is.get(path) !== wanted.get(path))
  return differing
    .slice(0, 20)
    .map(path => `${JSON.stringify(path)}: ${is.get(path)}, not ${wanted.get(path)}`)
}
