import { createHash } from "node:crypto"
import { S_IF } from "../erofs/defs.js"
import { DiskContents, type ReadableDisk } from "../erofs/disk-contents.js"
import type { PartFile } from "../layer/part-file.js"
import { BlockAllocator } from "./block-allocator.js"
import { BlockWriter } from "./block-writer.js"
import { ChecksumSeeds } from "./checksums.js"
import { BLOCK_SIZE, BLOCKS_PER_GROUP, JOURNAL_INODE, SUPERBLOCK_OFFSET } from "./defs.js"
import type { Geometry } from "./geometry.js"
import { type GroupsSummary, takeTables, writeGroups } from "./groups.js"
import { InodeWriter, type StoredContent } from "./inode-writer.js"
import { encodeJournal, journalBlocks } from "./journal.js"
import { collectNodes, type Ext4Node } from "./nodes.js"
import { planDisk } from "./plan.js"
import { encodeSuperblock, type SuperblockInput } from "./superblock.js"

/** What a file system is made of. */
export interface Ext4Input {
  /** The image's: what a guest that mounts it sees is what will be in the file system. */
  readonly disk: ReadableDisk
  /** 16 bytes that identify the file system. */
  readonly uuid: Buffer
  /** Bytes. Default: what the files need, and at least 1 GiB. */
  readonly size?: number | undefined
  readonly signal?: AbortSignal | undefined
}

/**
 * Writes an image's files as one ext4 file system: what is free, and the holes of files, stay holes. Equal input gives
 * equal bytes.
 *
 * ```
 * | superblock, descriptors | bitmaps, inode tables of all groups | journal | contents, in the order of inodes | free |
 * ```
 *
 * It has a journal, since it is to be written to, and a guest may end at any moment.
 *
 * @param file - empty
 * @returns bytes of the file system
 * @throws ImageError `limit` for files that ext4 cannot have or that have no room; `entry-xattr`; `store-corrupt`, `io`
 */
export async function writeExt4(file: PartFile, { disk, uuid, size, signal }: Ext4Input): Promise<number> {
  await using contents = new DiskContents(disk)
  const metadata = await contents.metadata()
  const nodes = collectNodes(metadata)
  const geometry = planDisk(metadata, nodes, size)
  await file.truncate(geometry.blocks * BLOCK_SIZE)
  const allocator = new BlockAllocator(geometry)
  const tables = takeTables(allocator, geometry)
  const seeds = new ChecksumSeeds(uuid)
  const [data, inodes] = [new BlockWriter(file), new BlockWriter(file)]
  const writer = new InodeWriter({
    ...{ geometry, seeds, allocator, metadata, contents, data },
    ...{ inodeTables: tables.inodeTables, tables: inodes },
  })
  const journal = await writeJournal(writer, journalBlocks(geometry.blocks))
  for (const node of nodes) {
    signal?.throwIfAborted()
    await writer.writeNode(node)
  }
  await inodes.flush()
  const lastInode = (nodes.at(-1) as Ext4Node).inode
  const directories = countDirectories(nodes, geometry)
  const groups = await writeGroups({ geometry, seeds, allocator, tables, lastInode, directories }, data)
  await writeSuperblocks(data, { geometry, groups, uuid, hashSeed: hashSeed(uuid), journal }, groups)
  await data.flush()
  return geometry.blocks * BLOCK_SIZE
}

async function writeJournal(writer: InodeWriter, blocks: number): Promise<StoredContent> {
  const stored = await writer.store(JOURNAL_INODE, encodeJournal(blocks), blocks)
  await writer.writeInode(JOURNAL_INODE, {
    ...{ mode: S_IF.file | 0o600, uid: 0, gid: 0, links: 1, xattrBlock: 0 },
    mtime: { seconds: 0, nanoseconds: 0 },
    xattrs: Buffer.alloc(0),
    ...stored,
  })
  return stored
}

function countDirectories(nodes: readonly Ext4Node[], { inodesPerGroup }: Geometry): number[] {
  const counts: number[] = []
  for (const { inode, children } of nodes) {
    const group = Math.floor((inode - 1) / inodesPerGroup)
    if (children) counts[group] = (counts[group] ?? 0) + 1
  }
  return counts
}

/** The first one stands behind the place of a boot sector, copies at the beginning of their groups. */
async function writeSuperblocks(
  data: BlockWriter,
  input: SuperblockInput,
  { descriptors }: GroupsSummary,
): Promise<void> {
  for (const group of [0, ...input.geometry.backupGroups]) {
    const at = group * BLOCKS_PER_GROUP * BLOCK_SIZE
    await data.write(encodeSuperblock(input, group), at + (group === 0 ? SUPERBLOCK_OFFSET : 0))
    await data.write(descriptors, at + BLOCK_SIZE)
  }
}

/** Any 16 bytes do, as long as they are always the same. */
function hashSeed(uuid: Buffer): Buffer {
  return createHash("sha256").update("ext4 hash seed").update(uuid).digest().subarray(0, 16)
}
