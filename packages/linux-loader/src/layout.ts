/**
 * Where everything lies in an x86-64 guest before its kernel runs. One picture for loader and machine:
 *
 * ```
 *        0x500  GDT, IDT                            (the machine's)
 *       0x6000  PVH start info, modules, memory map
 *       0x7000  zero page (boot_params)
 *       0x8ff0  boot stack, growing down            (the machine's)
 *       0x9000  boot page tables                    (the machine's)
 *      0x20000  command line, then setup_data from 0x21000
 *      0x9fc00  MP table                            reserved from here
 *      0xe0000  ACPI tables, RSDP first
 *     0x100000  kernels from here up, below 4 GiB; the initrd above them
 * ```
 */

/** Global descriptor table of the boot CPU. */
export const BOOT_GDT_START = 0x500
/** Interrupt descriptor table of the boot CPU. */
export const BOOT_IDT_START = 0x520
/** `hvm_start_info` of the PVH protocol; its module list and memory map follow in the same page. */
export const PVH_INFO_START = 0x6000
/** First byte after the page that holds all of PVH's structures. */
export const PVH_INFO_END = 0x7000
/** `boot_params`, one page. */
export const ZERO_PAGE_START = 0x7000
/** Stack pointer of the boot CPU at its entry. */
export const BOOT_STACK_POINTER = 0x8ff0
/** First of the boot CPU's page tables (PML4). */
export const BOOT_PAGE_TABLES_START = 0x9000
/** First byte after the room for the boot CPU's page tables. */
export const BOOT_PAGE_TABLES_END = 0x20000
/** The command line with its NUL. */
export const CMDLINE_START = 0x20000
/** The chain of `setup_data` entries. */
export const SETUP_DATA_START = 0x21000
/** First byte after the room for `setup_data`. */
export const SETUP_DATA_END = 0x80000
/** End of usable low memory: the extended BIOS data area of a PC starts here. */
export const EBDA_START = 0x9fc00
/** The MP table: kernels look for it in the last KiB of base memory. */
export const MP_TABLE_START = EBDA_START
/** First byte after the room for the MP table. */
export const MP_TABLE_END = 0xe0000
/** The RSDP, where kernels look for it without being told, and the other ACPI tables after it. */
export const ACPI_START = 0xe0000
/** First byte after the room for ACPI tables. */
export const ACPI_END = 0x100000
/** First byte above the PC's low megabyte: kernels are loaded from here up. */
export const HIMEM_START = 0x100000
/** Highest address that kernels take an initrd at, unless their header says otherwise (`initrd_addr_max`). */
export const INITRD_ADDR_MAX = 0x7fff_ffff
/** 4 GiB: what a kernel is loaded to and entered at lies below. */
export const LOW_RAM_LIMIT = 0x1_0000_0000
/** I/O APIC window of a PC. */
export const IOAPIC_START = 0xfec0_0000
/** Local APIC window of a PC. */
export const LAPIC_START = 0xfee0_0000
