import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { struct, u32, u64 } from "@ts-vmm/vm-memory/layout"
import type { Cmdline } from "../cmdline.js"
import type { LoadedInitrd } from "../initrd.js"
import { CMDLINE_START, PVH_INFO_END, PVH_INFO_START } from "../layout.js"
import { requireRoom } from "../placement.js"
import { checkCommandLine } from "./command-line.js"
import { checkMemoryMap, type MemoryMapEntry } from "./memory-map.js"

/** xen/include/public/arch-x86/hvm/start_info.h, version 1 */
export const XEN_HVM_START_MAGIC_VALUE = 0x336e_c578
const START_INFO_VERSION = 1
const startInfo = struct({
  magic: u32(),
  version: u32(),
  flags: u32(),
  nrModules: u32(),
  modlistPaddr: u64(),
  cmdlinePaddr: u64(),
  rsdpPaddr: u64(),
  memmapPaddr: u64(),
  memmapEntries: u32(),
  reserved: u32(),
})
const modlistEntry = struct({ paddr: u64(), size: u64(), cmdlinePaddr: u64(), reserved: u64() })
const memmapEntry = struct({ addr: u64(), size: u64(), type: u32(), reserved: u32() })

const MODLIST_START = PVH_INFO_START + 0x40
const MEMMAP_START = MODLIST_START + modlistEntry.span

/** What a kernel is told through `hvm_start_info`. */
export interface PvhStartInfo {
  readonly cmdline: Cmdline
  readonly initrd?: LoadedInitrd
  readonly memoryMap: readonly MemoryMapEntry[]
  /** Where `writeAcpiTables` put the RSDP. */
  readonly rsdpAddress?: GuestAddress
}

/**
 * Writes command line, module list, memory map and `hvm_start_info` for the PVH entry point.
 *
 * @returns the address for EBX: `PVH_INFO_START`
 * @throws LoaderError `cmdline-too-long`, `memory-map`, `table-no-room`
 * @see Xen docs/misc/pvh.pandoc
 *
 * @example
 * ```ts
 * if (kernel.pvhEntry !== undefined)
 *   ebx = writePvhStartInfo(memory, { cmdline, initrd, memoryMap: defaultMemoryMap(memory) })
 * ```
 */
export function writePvhStartInfo(memory: GuestMemory, info: PvhStartInfo): GuestAddress {
  const { cmdline, initrd, memoryMap, rsdpAddress = 0 } = info
  checkMemoryMap(memoryMap)
  const commandLine = checkCommandLine(memory, cmdline)
  const page = new Uint8Array(PVH_INFO_END - PVH_INFO_START)
  requireRoom(memory, PVH_INFO_START, PVH_INFO_END, page.length)
  startInfo.encode(
    {
      magic: XEN_HVM_START_MAGIC_VALUE,
      version: START_INFO_VERSION,
      flags: 0,
      nrModules: initrd ? 1 : 0,
      modlistPaddr: initrd ? BigInt(MODLIST_START) : 0n,
      cmdlinePaddr: BigInt(CMDLINE_START),
      rsdpPaddr: BigInt(rsdpAddress),
      memmapPaddr: BigInt(MEMMAP_START),
      memmapEntries: memoryMap.length,
      reserved: 0,
    },
    page,
  )
  if (initrd) encodeModule(page, initrd)
  memoryMap.forEach(({ start, size, type }, i) => {
    const entry = { addr: BigInt(start), size: BigInt(size), type, reserved: 0 }
    memmapEntry.encode(entry, page, MEMMAP_START - PVH_INFO_START + i * memmapEntry.span)
  })
  memory.write(CMDLINE_START, commandLine)
  memory.write(PVH_INFO_START, page)
  return PVH_INFO_START
}

function encodeModule(page: Uint8Array, { address, size }: LoadedInitrd): void {
  const entry = { paddr: BigInt(address), size: BigInt(size), cmdlinePaddr: 0n, reserved: 0n }
  modlistEntry.encode(entry, page, MODLIST_START - PVH_INFO_START)
}
