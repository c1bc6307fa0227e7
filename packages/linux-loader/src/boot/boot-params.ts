import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { BOOT_FLAG, LOADED_HIGH, SETUP_HEADER_MAGIC, SETUP_HEADER_OFFSET } from "../bzimage/setup-header.js"
import type { Cmdline } from "../cmdline.js"
import type { LoadedInitrd } from "../initrd.js"
import { CMDLINE_START, ZERO_PAGE_START } from "../layout.js"
import type { LoadedKernel } from "../loaded-kernel.js"
import { requireRoom } from "../placement.js"
import { checkCommandLine } from "./command-line.js"
import { checkMemoryMap, type MemoryMapEntry } from "./memory-map.js"
import { type SetupData, writeSetupData } from "./setup-data.js"

const PAGE_SIZE = 4096
const E820_ENTRY_SIZE = 20
/** "Undefined": a boot loader without a number of its own. */
const TYPE_OF_LOADER_UNDEFINED = 0xff
const TWO_32 = 2 ** 32

/** Offsets in `struct boot_params`. @see arch/x86/include/uapi/asm/bootparam.h */
const OFFSET = {
  acpiRsdpAddr: 0x070,
  extRamdiskImage: 0x0c0,
  extRamdiskSize: 0x0c4,
  e820Entries: 0x1e8,
  bootFlag: 0x1fe,
  header: 0x202,
  version: 0x206,
  typeOfLoader: 0x210,
  loadflags: 0x211,
  ramdiskImage: 0x218,
  ramdiskSize: 0x21c,
  cmdLinePtr: 0x228,
  kernelAlignment: 0x230,
  cmdlineSize: 0x238,
  setupData: 0x250,
  e820Table: 0x2d0,
} as const

/** What a kernel is told through the zero page. */
export interface BootParams {
  readonly kernel: LoadedKernel
  readonly cmdline: Cmdline
  readonly initrd?: LoadedInitrd
  readonly memoryMap: readonly MemoryMapEntry[]
  /** Where `writeAcpiTables` put the RSDP; kernels search the BIOS area without it. */
  readonly rsdpAddress?: GuestAddress
  /** More to tell, such as `rngSeed`. */
  readonly setupData?: readonly SetupData[]
}

/**
 * Writes command line, setup data and `boot_params` for the 64-bit boot protocol, each to its place in the
 * layout. A bzImage's own setup header goes in as it is; other kernels get a minimal one.
 *
 * @returns the address for RSI: `ZERO_PAGE_START`
 * @throws LoaderError `cmdline-too-long`, `memory-map`, `table-no-room`, `invalid-argument`
 * @see Documentation/arch/x86/boot.rst, Documentation/arch/x86/zero-page.rst
 *
 * @example
 * ```ts
 * const rsi = writeBootParams(memory, { kernel, cmdline, initrd, memoryMap: defaultMemoryMap(memory) })
 * ```
 */
export function writeBootParams(memory: GuestMemory, params: BootParams): GuestAddress {
  const { kernel, cmdline, initrd, memoryMap, rsdpAddress, setupData = [] } = params
  checkMemoryMap(memoryMap)
  const commandLine = checkCommandLine(memory, cmdline, kernel.setupHeader?.cmdlineSize)
  requireRoom(memory, ZERO_PAGE_START, ZERO_PAGE_START + PAGE_SIZE, PAGE_SIZE)
  const page = new Uint8Array(PAGE_SIZE)
  const view = new DataView(page.buffer)
  writeHeader(page, kernel, cmdline.maxSize - 1)
  view.setUint8(OFFSET.typeOfLoader, TYPE_OF_LOADER_UNDEFINED)
  view.setUint32(OFFSET.cmdLinePtr, CMDLINE_START, true)
  if (initrd) writeInitrd(view, initrd)
  if (rsdpAddress !== undefined) view.setBigUint64(OFFSET.acpiRsdpAddr, BigInt(rsdpAddress), true)
  writeMemoryMap(view, memoryMap)
  view.setBigUint64(OFFSET.setupData, BigInt(writeSetupData(memory, setupData)), true)
  memory.write(CMDLINE_START, commandLine)
  memory.write(ZERO_PAGE_START, page)
  return ZERO_PAGE_START
}

function writeHeader(
  page: Uint8Array,
  { setupHeader, loadAddress }: LoadedKernel,
  cmdlineSize: number,
): void {
  if (setupHeader) {
    page.set(setupHeader.bytes, SETUP_HEADER_OFFSET)
    new DataView(page.buffer).setUint32(0x214, loadAddress, true)
    return
  }
  const view = new DataView(page.buffer)
  view.setUint16(OFFSET.bootFlag, BOOT_FLAG, true)
  view.setUint32(OFFSET.header, SETUP_HEADER_MAGIC, true)
  view.setUint16(OFFSET.version, 0x20f, true)
  view.setUint8(OFFSET.loadflags, LOADED_HIGH)
  view.setUint32(OFFSET.kernelAlignment, 0x100_0000, true)
  view.setUint32(OFFSET.cmdlineSize, cmdlineSize, true)
}

function writeInitrd(view: DataView, { address, size }: LoadedInitrd): void {
  view.setUint32(OFFSET.ramdiskImage, address % TWO_32, true)
  view.setUint32(OFFSET.extRamdiskImage, Math.floor(address / TWO_32), true)
  view.setUint32(OFFSET.ramdiskSize, size % TWO_32, true)
  view.setUint32(OFFSET.extRamdiskSize, Math.floor(size / TWO_32), true)
}

function writeMemoryMap(view: DataView, map: readonly MemoryMapEntry[]): void {
  view.setUint8(OFFSET.e820Entries, map.length)
  map.forEach(({ start, size, type }, i) => {
    const at = OFFSET.e820Table + i * E820_ENTRY_SIZE
    view.setBigUint64(at, BigInt(start), true)
    view.setBigUint64(at + 8, BigInt(size), true)
    view.setUint32(at + 16, type, true)
  })
}
