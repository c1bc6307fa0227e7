import type { KvmSegment } from "@ts-vmm/kvm-ioctls"

/** Type fields of code and data segments. @see Intel SDM vol. 3, "Code- and Data-Segment Descriptor Types" */
const TYPE_DATA_READ_WRITE_ACCESSED = 0x3
const TYPE_CODE_EXECUTE_READ_ACCESSED = 0xb
/** @see Intel SDM vol. 3, "System Descriptor Types": 32/64-bit TSS, busy */
const TYPE_TSS_BUSY = 0xb

const FLAT_LIMIT = 0xffff_ffff

/** Selectors of the boot descriptor table. @see Linux boot protocol, "64-bit Boot Protocol": __BOOT_CS, __BOOT_DS */
export const BOOT_CS = 0x10
export const BOOT_DS = 0x18
const BOOT_TSS = 0x20

const FLAT_SEGMENT: Omit<KvmSegment, "selector" | "type"> = {
  base: 0n,
  limit: FLAT_LIMIT,
  present: 1,
  dpl: 0,
  db: 1,
  s: 1,
  l: 0,
  g: 1,
  avl: 0,
  unusable: 0,
}

/** Flat 64-bit code segment. */
export const LONG_MODE_CODE: KvmSegment = {
  ...FLAT_SEGMENT,
  selector: BOOT_CS,
  type: TYPE_CODE_EXECUTE_READ_ACCESSED,
  db: 0,
  l: 1,
}

/** Flat 32-bit code segment. */
export const PROTECTED_MODE_CODE: KvmSegment = {
  ...FLAT_SEGMENT,
  selector: BOOT_CS,
  type: TYPE_CODE_EXECUTE_READ_ACCESSED,
}

/** Flat data segment, for 32 and 64 bits. */
export const FLAT_DATA: KvmSegment = {
  ...FLAT_SEGMENT,
  selector: BOOT_DS,
  type: TYPE_DATA_READ_WRITE_ACCESSED,
}

/**
 * Task state segment. A CPU cannot run without one; nothing ever uses it.
 * Limit 0x67 is the size of a TSS less one, which the PVH boot ABI also asks for.
 */
export const BOOT_TASK: KvmSegment = {
  ...FLAT_SEGMENT,
  limit: 0x67,
  selector: BOOT_TSS,
  type: TYPE_TSS_BUSY,
  db: 0,
  s: 0,
  g: 0,
}

/**
 * The 8-byte descriptor of a segment, as it lies in memory.
 * @see Intel SDM vol. 3, "Segment Descriptors"
 */
export function segmentDescriptor(segment: KvmSegment): bigint {
  const base = segment.base
  const limit = BigInt(segment.g ? segment.limit >>> 12 : segment.limit)
  const access = segment.type | (segment.s << 4) | (segment.dpl << 5) | (segment.present << 7)
  const flags = segment.avl | (segment.l << 1) | (segment.db << 2) | (segment.g << 3)
  return (
    (limit & 0xffffn) |
    ((base & 0xff_ffffn) << 16n) |
    (BigInt(access) << 40n) |
    (((limit >> 16n) & 0xfn) << 48n) |
    (BigInt(flags) << 52n) |
    (((base >> 24n) & 0xffn) << 56n)
  )
}

/**
 * A descriptor table in guest byte order.
 * @param code - code segment that the CPU starts with, at selector 0x10
 */
export function descriptorTable(code: KvmSegment): Uint8Array {
  // A TSS descriptor takes two entries in long mode; the upper half holds the high base, zero here.
  const segments = [undefined, undefined, code, FLAT_DATA, BOOT_TASK, undefined]
  const table = new DataView(new ArrayBuffer(segments.length * 8))
  segments.forEach((segment, index) => {
    if (segment) table.setBigUint64(index * 8, segmentDescriptor(segment), true)
  })
  return new Uint8Array(table.buffer)
}
