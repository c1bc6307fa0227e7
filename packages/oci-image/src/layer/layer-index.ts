import { createHash } from "node:crypto"
import { BLOCK_SIZE } from "../erofs/defs.js"
import { ByteReader, ByteWriter } from "./bytes.js"
import { type Contents, readContents, writeContents } from "./contents.js"
import { checkName, checkNode, corrupt, MAX_DEPTH } from "./index-checks.js"
import {
  CHECKSUM_SIZE,
  decodeLayerHeader,
  encodeLayerHeader,
  type LayerHeader,
  layerHeaderSize,
} from "./layer-header.js"
import { type NodeKind, sortedNames, TreeNode } from "./tree.js"

/**
 * The index of a data part: the layer's tree, as compact binary. Little endian.
 *
 * ```
 * header   see LayerHeader
 * record   depth:u16 kind:u8 flags:u8 nameLength:u8 name  then by kind:
 *            sameAs      number:u32 (of an earlier record that is no directory)
 *            others      mode:u16 uid:u32 gid:u32 mtime:f64 nsec:u32 [xattrs] and
 *              directory [whiteouts]    file  size:f64 block:u32 [runs]    device  major:u32 minor:u32    symlink, link  length:u16 text
 * contents words:u32, then see Contents
 * trailer  records:u32 sha256[32] of everything before
 * ```
 */
const COUNT_SIZE = 4
const KINDS: readonly (NodeKind | "same")[] = [
  "directory",
  "file",
  "symlink",
  "char",
  "block",
  "fifo",
  "link",
  "same",
]
const SAME = KINDS.indexOf("same")
const FLAG_IMPLICIT = 1
const FLAG_OPAQUE = 2
const FLAG_XATTRS = 4
const FLAG_WHITEOUTS = 8
const FLAG_RUNS = 16
const FLAGS = 31

/** A layer as it is stored: its tree, and what the tree's blocks point into. */
export interface LayerIndex extends LayerHeader {
  readonly root: TreeNode
  readonly contents: Contents
}

/** What a process that reads layers says of one. */
export type ReadLayerIndex = Omit<LayerIndex, "readAfter" | "contents"> & {
  /** Default: nothing that could be shared with other layers. */
  readonly contents?: Contents
}

/**
 * Encodes an index, piece by piece. Equal layers give equal bytes. Uses the nodes' `slot`.
 *
 * @param sink - takes the next bytes, which are only valid during the call
 */
export function writeLayerIndex(index: ReadLayerIndex, sink: (bytes: Buffer) => void): void {
  const hash = createHash("sha256")
  const out = new ByteWriter(bytes => {
    hash.update(bytes)
    sink(bytes)
  })
  out.bytes(encodeLayerHeader(index))
  const records = new RecordEncoder(out).encode(index.root)
  writeContents(out, index.contents ?? new Uint32Array())
  out.u32(records)
  out.flush()
  sink(hash.digest())
}

/** Encodes an index in memory. */
export function encodeLayerIndex(index: ReadLayerIndex): Buffer {
  const pieces: Buffer[] = []
  writeLayerIndex(index, bytes => pieces.push(Buffer.from(bytes)))
  return Buffer.concat(pieces)
}

/**
 * Decodes an index; everything is bounded by the buffer's length. What a process that reads layers could have
 * made up is checked: names, numbers, and that every file lies inside the data part.
 *
 * @param maxRecords - how many names there may be
 * @throws ImageError `index-corrupt`
 */
export function decodeLayerIndex(bytes: Buffer, maxRecords = Number.POSITIVE_INFINITY): LayerIndex {
  const header = decodeLayerHeader(bytes)
  const end = bytes.length - CHECKSUM_SIZE
  const recordsEnd = end - COUNT_SIZE
  if (recordsEnd < layerHeaderSize(header)) throw corrupt("too short")
  const checksum = createHash("sha256").update(bytes.subarray(0, end)).digest()
  if (!checksum.equals(bytes.subarray(end))) throw corrupt("wrong checksum")
  const records = bytes.readUInt32LE(recordsEnd)
  if (records > maxRecords) throw corrupt("too many records")
  const input = new ByteReader(bytes.subarray(0, recordsEnd), layerHeaderSize(header))
  try {
    const blocks = header.dataSize / BLOCK_SIZE
    const root = decodeRecords(input, records, blocks)
    const contents = readContents(input, blocks)
    if (input.left !== 0) throw corrupt("more than its records")
    return { ...header, root, contents }
  } catch (error) {
    if (error instanceof RangeError) throw corrupt(error.message)
    throw error
  }
}

class RecordEncoder {
  readonly #out: ByteWriter
  #records = 0
  #numbered = 0

  constructor(out: ByteWriter) {
    this.#out = out
  }

  encode(root: TreeNode): number {
    this.#node("", root, 0)
    return this.#records
  }

  #node(name: string, node: TreeNode, depth: number): void {
    this.#records++
    if (node.kind !== "directory" && node.slot >= 0) {
      this.#head(name, depth, SAME, 0)
      this.#out.u32(node.slot)
      return
    }
    this.#head(name, depth, KINDS.indexOf(node.kind), flagsOf(node))
    this.#metadata(node)
    if (node.kind !== "directory") {
      node.slot = this.#numbered++
      return
    }
    for (const child of sortedNames(node)) this.#node(child, node.children?.get(child) as TreeNode, depth + 1)
  }

  #head(name: string, depth: number, kind: number, flags: number): void {
    this.#out.u16(depth)
    this.#out.u8(kind)
    this.#out.u8(flags)
    this.#out.u8(name.length)
    this.#out.text(name)
  }

  #metadata(node: TreeNode): void {
    const out = this.#out
    out.u16(node.mode)
    out.u32(node.uid)
    out.u32(node.gid)
    out.f64(node.mtime)
    out.u32(node.mtimeNsec)
    if (node.xattrs) this.#xattrs(node.xattrs)
    if (node.whiteouts) this.#names([...node.whiteouts].sort())
    switch (node.kind) {
      case "file":
        out.f64(node.size)
        out.u32(node.block)
        if (node.runs) this.#runs(node.runs)
        break
      case "char":
      case "block":
        out.u32(node.major)
        out.u32(node.minor)
        break
      case "symlink":
      case "link":
        out.u16(node.target.length)
        out.text(node.target)
        break
    }
  }

  #xattrs(xattrs: ReadonlyMap<string, Buffer>): void {
    this.#out.u16(xattrs.size)
    for (const [name, value] of xattrs) {
      this.#out.u8(name.length)
      this.#out.text(name)
      this.#out.u16(value.length)
      this.#out.bytes(value)
    }
  }

  #runs(runs: readonly number[]): void {
    this.#out.u32(runs.length)
    for (const number of runs) this.#out.u32(number)
  }

  #names(names: readonly string[]): void {
    this.#out.u32(names.length)
    for (const name of names) {
      this.#out.u8(name.length)
      this.#out.text(name)
    }
  }
}

function flagsOf(node: TreeNode): number {
  return (
    (node.implicit ? FLAG_IMPLICIT : 0) |
    (node.opaque ? FLAG_OPAQUE : 0) |
    (node.xattrs ? FLAG_XATTRS : 0) |
    (node.whiteouts ? FLAG_WHITEOUTS : 0) |
    (node.runs ? FLAG_RUNS : 0)
  )
}

function decodeRecords(input: ByteReader, records: number, blocks: number): TreeNode {
  const open: TreeNode[] = []
  const numbered: TreeNode[] = []
  for (let i = 0; i < records; i++) {
    const depth = input.u16()
    const kind = input.u8()
    const flags = input.u8()
    const name = input.text(input.u8())
    const node = kind === SAME ? numbered[input.u32()] : decodeNode(input, kind, flags)
    const parent = depth === 0 ? undefined : open[depth - 1]?.children
    const misplaced = depth === 0 ? i !== 0 || node?.kind !== "directory" : !parent || depth > MAX_DEPTH
    if (!node || misplaced || parent?.has(name)) throw corrupt("misplaced record")
    if (parent) checkName(name)
    if (kind !== SAME) checkNode(node, blocks)
    parent?.set(name, node)
    open.length = depth
    if (node.kind === "directory") open.push(node)
    else if (kind !== SAME) numbered.push(node)
  }
  if (!open[0]) throw corrupt("wrong number of records")
  return open[0]
}

function decodeNode(input: ByteReader, kindNumber: number, flags: number): TreeNode {
  const kind = KINDS[kindNumber]
  if (kind === undefined || kind === "same" || flags > FLAGS) throw corrupt("unknown kind of record")
  const node = new TreeNode(kind)
  node.implicit = (flags & FLAG_IMPLICIT) !== 0
  node.opaque = (flags & FLAG_OPAQUE) !== 0
  node.mode = input.u16()
  node.uid = input.u32()
  node.gid = input.u32()
  node.mtime = input.f64()
  node.mtimeNsec = input.u32()
  if (flags & FLAG_XATTRS) node.xattrs = decodeXattrs(input)
  if (flags & FLAG_WHITEOUTS) node.whiteouts = decodeNames(input)
  switch (kind) {
    case "file":
      node.size = input.f64()
      node.block = input.u32()
      if (flags & FLAG_RUNS) node.runs = decodeRuns(input)
      break
    case "char":
    case "block":
      node.major = input.u32()
      node.minor = input.u32()
      break
    case "symlink":
    case "link":
      node.target = input.text(input.u16())
      break
  }
  return node
}

function decodeXattrs(input: ByteReader): Map<string, Buffer> {
  const xattrs = new Map<string, Buffer>()
  for (let left = input.u16(); left > 0; left--) xattrs.set(input.text(input.u8()), input.bytes(input.u16()))
  return xattrs
}

function decodeRuns(input: ByteReader): number[] {
  const runs: number[] = []
  for (let left = input.u32(); left > 0; left--) runs.push(input.u32())
  return runs
}

function decodeNames(input: ByteReader): Set<string> {
  const names = new Set<string>()
  for (let left = input.u32(); left > 0; left--) names.add(input.text(input.u8()))
  return names
}
