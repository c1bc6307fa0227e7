import { crc32c } from "../erofs/crc32c.js"
import {
  BLOCKS_PER_GROUP,
  COMPAT,
  EXT4_SUPER_MAGIC,
  EXTRA_ISIZE,
  FIRST_INODE,
  I_BLOCK_SIZE,
  INCOMPAT,
  INODE_SIZE,
  JOURNAL_INODE,
  RO_COMPAT,
  SUPER,
  SUPERBLOCK_SIZE,
} from "./defs.js"
import type { Geometry } from "./geometry.js"
import type { GroupsSummary } from "./groups.js"

/** What a superblock says. */
export interface SuperblockInput {
  readonly geometry: Geometry
  readonly groups: Pick<GroupsSummary, "freeBlocks" | "freeInodes">
  /** 16 bytes. */
  readonly uuid: Buffer
  /** 16 bytes, which keep the hashes of a directory's names from being foreseen. */
  readonly hashSeed: Buffer
  /** The journal's `i_block` and size, from which it is found when its inode is lost. */
  readonly journal: { readonly content: Buffer; readonly size: number }
}

/** 1024 << 2. */
const LOG_BLOCK_SIZE = 2
const EXT4_VALID_FS = 1
const EXT4_ERRORS_CONTINUE = 1
const EXT4_DYNAMIC_REV = 1
const DX_HASH_HALF_MD4 = 1
/** Names are hashed as if characters were signed, as they are on x86. */
const EXT2_FLAGS_SIGNED_HASH = 1
const EXT4_DEFM_XATTR_USER = 0x4
const EXT4_DEFM_ACL = 0x8
const EXT3_JNL_BACKUP_BLOCKS = 1
const EXT4_CRC32C_CHKSUM = 1
/** Checking after so many mounts is off. */
const NO_MOUNT_LIMIT = 0xffff
/** 16 groups, as mke2fs has it. */
const LOG_GROUPS_PER_FLEX = 4

/** Encodes `struct ext4_super_block`. @param group - the one whose copy it is */
export function encodeSuperblock(input: SuperblockInput, group: number): Buffer {
  const out = Buffer.alloc(SUPERBLOCK_SIZE)
  putSizes(out, input)
  putFeatures(out)
  out.writeUInt16LE(group, SUPER.blockGroup)
  out.writeUInt16LE(NO_MOUNT_LIMIT, SUPER.maxMountCount)
  out.writeUInt16LE(EXT4_SUPER_MAGIC, SUPER.magic)
  out.writeUInt16LE(EXT4_VALID_FS, SUPER.state)
  out.writeUInt16LE(EXT4_ERRORS_CONTINUE, SUPER.errors)
  out.writeUInt32LE(EXT4_DYNAMIC_REV, SUPER.revLevel)
  input.uuid.copy(out, SUPER.uuid, 0, 16)
  input.hashSeed.copy(out, SUPER.hashSeed, 0, 16)
  out.writeUInt8(DX_HASH_HALF_MD4, SUPER.hashVersion)
  out.writeUInt32LE(EXT2_FLAGS_SIGNED_HASH, SUPER.flags)
  out.writeUInt32LE(EXT4_DEFM_XATTR_USER | EXT4_DEFM_ACL, SUPER.defaultMountOptions)
  putJournal(out, input.journal)
  out.writeUInt8(EXT4_CRC32C_CHKSUM, SUPER.checksumType)
  out.writeUInt32LE(crc32c(0xffff_ffff, out.subarray(0, SUPER.checksum)), SUPER.checksum)
  return out
}

function putSizes(out: Buffer, { geometry, groups }: SuperblockInput): void {
  out.writeUInt32LE(geometry.groups * geometry.inodesPerGroup, SUPER.inodesCount)
  out.writeUInt32LE(geometry.blocks, SUPER.blocksCount)
  out.writeUInt32LE(groups.freeBlocks, SUPER.freeBlocksCount)
  out.writeUInt32LE(groups.freeInodes, SUPER.freeInodesCount)
  out.writeUInt32LE(LOG_BLOCK_SIZE, SUPER.logBlockSize)
  out.writeUInt32LE(LOG_BLOCK_SIZE, SUPER.logClusterSize)
  out.writeUInt32LE(BLOCKS_PER_GROUP, SUPER.blocksPerGroup)
  out.writeUInt32LE(BLOCKS_PER_GROUP, SUPER.clustersPerGroup)
  out.writeUInt32LE(geometry.inodesPerGroup, SUPER.inodesPerGroup)
  out.writeUInt32LE(FIRST_INODE, SUPER.firstInode)
  out.writeUInt16LE(INODE_SIZE, SUPER.inodeSize)
  out.writeUInt16LE(EXTRA_ISIZE, SUPER.minExtraIsize)
  out.writeUInt16LE(EXTRA_ISIZE, SUPER.wantExtraIsize)
  out.writeUInt8(LOG_GROUPS_PER_FLEX, SUPER.logGroupsPerFlex)
}

/** `dir_index` is for directories to come: those of the image are read through. */
function putFeatures(out: Buffer): void {
  const all = (features: Readonly<Record<string, number>>) =>
    Object.values(features).reduce((sum, feature) => sum | feature, 0)
  out.writeUInt32LE(all(COMPAT), SUPER.featureCompat)
  out.writeUInt32LE(all(INCOMPAT), SUPER.featureIncompat)
  out.writeUInt32LE(all(RO_COMPAT), SUPER.featureRoCompat)
}

function putJournal(out: Buffer, { content, size }: SuperblockInput["journal"]): void {
  out.writeUInt32LE(JOURNAL_INODE, SUPER.journalInode)
  out.writeUInt8(EXT3_JNL_BACKUP_BLOCKS, SUPER.journalBackupType)
  content.copy(out, SUPER.journalBlocks)
  out.writeUInt32LE(Math.floor(size / 2 ** 32), SUPER.journalBlocks + I_BLOCK_SIZE)
  out.writeUInt32LE(size % 2 ** 32, SUPER.journalBlocks + I_BLOCK_SIZE + 4)
}
