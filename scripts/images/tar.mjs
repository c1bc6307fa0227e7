// A small tar writer (POSIX ustar with pax records), so that images with any owner, mode and device node can be made
// by any user, byte for byte the same each time.

const BLOCK = 512
const TYPE = { file: "0", hardlink: "1", symlink: "2", char: "3", block: "4", dir: "5", fifo: "6" }
const DEFAULT_MODE = { dir: 0o755, file: 0o644, symlink: 0o777 }

const octal = (value, width) => `${value.toString(8).padStart(width - 1, "0")}\0`

function header(entry, typeflag, size) {
  const block = Buffer.alloc(BLOCK)
  block.write(entry.name, 0, 100)
  block.write(octal(entry.mode ?? DEFAULT_MODE[entry.type] ?? 0o644, 8), 100)
  block.write(octal(entry.uid ?? 0, 8), 108)
  block.write(octal(entry.gid ?? 0, 8), 116)
  block.write(octal(size, 12), 124)
  block.write(octal(entry.mtime ?? 0, 12), 136)
  block.fill(" ", 148, 156)
  block.write(typeflag, 156)
  block.write(entry.link ?? "", 157, 100)
  block.write("ustar\x0000", 257)
  block.write(octal(entry.major ?? 0, 8), 329)
  block.write(octal(entry.minor ?? 0, 8), 337)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148)
  return block
}

const padded = data => Buffer.concat([data, Buffer.alloc(-data.length & (BLOCK - 1))])

/** One pax record; its length counts its own digits. */
function paxRecord(key, value) {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value), Buffer.from("\n")])
  let length = rest.length + 1
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length
  return Buffer.concat([Buffer.from(String(length)), rest])
}

function paxHeader(entry) {
  const records = Object.entries(entry.xattrs ?? {}).map(([name, value]) => [`SCHILY.xattr.${name}`, value])
  if (Buffer.byteLength(entry.name) > 100) records.push(["path", entry.name])
  if (Buffer.byteLength(entry.link ?? "") > 100) records.push(["linkpath", entry.link])
  if (records.length === 0) return Buffer.alloc(0)
  const body = Buffer.concat(records.map(([key, value]) => paxRecord(key, value)))
  return Buffer.concat([header({ name: "pax", type: "file" }, "x", body.length), padded(body)])
}

/**
 * @typedef {object} TarEntry
 * @property {string} name path without a leading slash
 * @property {"file" | "hardlink" | "symlink" | "char" | "block" | "dir" | "fifo"} type
 * @property {Buffer | string} [data] content of a file
 * @property {string} [link] target of a link
 * @property {number} [mode]
 * @property {number} [uid]
 * @property {number} [gid]
 * @property {number} [mtime] seconds
 * @property {number} [major]
 * @property {number} [minor]
 * @property {Record<string, string | Buffer>} [xattrs]
 */

/**
 * A tar archive in memory.
 * @param {TarEntry[]} entries
 * @returns {Buffer}
 */
export function tar(entries) {
  const parts = entries.flatMap(entry => {
    const data = Buffer.from(entry.data ?? "")
    return [paxHeader(entry), header(entry, TYPE[entry.type], data.length), padded(data)]
  })
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK)])
}
