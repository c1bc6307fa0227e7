// Prints what loading a 50 MiB ELF kernel takes beside plain preads of its segments into the same kind of fresh guest
// memory. Needs built packages: pnpm build.
import { closeSync, openSync, readSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { mmapMemory } from "../../vm-memory/dist/mmap.js"
import { fileImage, loadElf } from "../dist/index.js"

const MIB = 2 ** 20
const RAM = 128 * MIB
const BASE = 16 * MIB
const HEADERS_SIZE = 4096
/** Bytes of text, read-only data and data: about what a large vmlinux has. */
const SEGMENTS = [24 * MIB, 10 * MIB, 16 * MIB]
const ROUNDS = 15

/** Writes an ELF file of 50 MiB in three segments. */
export function makeElf(path) {
  const bytes = Buffer.alloc(HEADERS_SIZE + SEGMENTS.reduce((sum, size) => sum + size), 0x90)
  bytes.fill(0, 0, HEADERS_SIZE)
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
  bytes.writeUInt16LE(2, 16)
  bytes.writeUInt16LE(62, 18)
  bytes.writeBigUInt64LE(BigInt(BASE), 24)
  bytes.writeBigUInt64LE(64n, 32)
  bytes.writeUInt16LE(56, 54)
  bytes.writeUInt16LE(SEGMENTS.length, 56)
  let done = 0
  SEGMENTS.forEach((size, i) => {
    const at = 64 + i * 56
    bytes.writeUInt32LE(1, at)
    bytes.writeBigUInt64LE(BigInt(HEADERS_SIZE + done), at + 8)
    bytes.writeBigUInt64LE(BigInt(BASE + done), at + 24)
    bytes.writeBigUInt64LE(BigInt(size), at + 32)
    bytes.writeBigUInt64LE(BigInt(size), at + 40)
    done += size
  })
  writeFileSync(path, bytes)
}

/** Milliseconds that `load` takes with fresh guest memory, whose pages it touches first. */
function timed(path, load) {
  const memory = mmapMemory([{ start: 0, size: RAM }])
  const fd = openSync(path, "r")
  try {
    const since = process.hrtime.bigint()
    load(memory, fd)
    return Number(process.hrtime.bigint() - since) / 1e6
  } finally {
    closeSync(fd)
    memory.close()
  }
}

/** Milliseconds of one `loadElf`. */
export const loadMs = path => timed(path, (memory, fd) => loadElf(memory, fileImage(fd)))

/** Milliseconds of one pread a segment, each to its place, by someone who knows the file. */
export const preadMs = path =>
  timed(path, (memory, fd) => {
    let done = 0
    for (const size of SEGMENTS) {
      const [place] = memory.slices(BASE + done, size)
      if (readSync(fd, place, 0, size, HEADERS_SIZE + done) !== size) throw new Error("short read")
      done += size
    }
  })

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const path = join(tmpdir(), `elf-load-${process.pid}.elf`)
  try {
    makeElf(path)
    const median = list => list.sort((a, b) => a - b)[list.length >> 1]
    const pairs = Array.from({ length: ROUNDS }, () => [loadMs(path), preadMs(path)])
    const [ours, pread] = [0, 1].map(side => median(pairs.map(pair => pair[side])))
    console.log(
      `loadElf ${ours.toFixed(1)} ms, pread ${pread.toFixed(1)} ms, ratio ${(ours / pread).toFixed(2)}`,
    )
  } finally {
    rmSync(path, { force: true })
  }
}
