import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"

/** Page table entry bits. @see Intel SDM vol. 3, "4-Level Paging", tables of entry formats */
const PTE_PRESENT = 1n << 0n
const PTE_WRITABLE = 1n << 1n
const PTE_PAGE_SIZE = 1n << 7n

const TABLE_SIZE = 4096
const ENTRIES = 512
const LARGE_PAGE_SIZE = 2n << 20n
/** Page directories, each mapping 1 GiB: everything a boot loader may have placed below 4 GiB. */
const DIRECTORIES = 4

/** Bytes that the page tables take: PML4, PDPT, four page directories. */
export const PAGE_TABLES_SIZE = (2 + DIRECTORIES) * TABLE_SIZE

/**
 * Writes page tables that map the first 4 GiB to themselves with 2 MiB pages.
 *
 * The boot protocol wants the kernel, the zero page and the command line identity mapped; 2 MiB pages need no
 * CPU feature beyond long mode.
 *
 * @param at - where the tables go, `PAGE_TABLES_SIZE` bytes, a multiple of 4 KiB
 * @returns the value for CR3
 * @throws MemoryError `out-of-range`
 * @see Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"
 */
export function writeIdentityMap(memory: GuestMemory, at: GuestAddress): bigint {
  const tables = new BigUint64Array(PAGE_TABLES_SIZE / 8)
  const link = (table: number): bigint => BigInt(at + table * TABLE_SIZE) | PTE_PRESENT | PTE_WRITABLE
  tables[0] = link(1)
  for (let i = 0; i < DIRECTORIES; i++) tables[ENTRIES + i] = link(2 + i)
  for (let i = 0; i < DIRECTORIES * ENTRIES; i++)
    tables[2 * ENTRIES + i] = (BigInt(i) * LARGE_PAGE_SIZE) | PTE_PRESENT | PTE_WRITABLE | PTE_PAGE_SIZE
  memory.write(at, new Uint8Array(tables.buffer))
  return BigInt(at)
}
