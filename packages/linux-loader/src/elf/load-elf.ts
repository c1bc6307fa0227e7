import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { LoaderError } from "../errors.js"
import type { KernelImage } from "../kernel-image.js"
import { HIMEM_START, LOW_RAM_LIMIT } from "../layout.js"
import type { LoadedKernel } from "../loaded-kernel.js"
import { copyPieces, isRam, type Piece } from "../placement.js"
import { PT_LOAD } from "./defs.js"
import { type ProgramHeader, readElfHeader } from "./headers.js"
import { findPvhEntry } from "./notes.js"

/** Where an ELF image may go. */
export interface ElfOptions {
  /** Lowest address of a segment. Default `HIMEM_START`: below it lie the boot structures of this package. */
  readonly lowest?: GuestAddress
}

/**
 * Loads an x86-64 ELF file, such as `vmlinux`, at its physical addresses and finds its PVH entry point.
 * Nothing is written unless all of its headers make sense.
 *
 * @returns `entry` from the file header, `pvhEntry` from the Xen note where there is one
 * @throws LoaderError `truncated`, `elf-…`, `no-segments`, `segment-…`, `malformed-note`, `kernel-address`
 * (not in RAM between `lowest` and 4 GiB), `entry-outside`, `image-changed`
 * @see System V ABI, chapter 5; Xen docs/misc/pvh.pandoc
 *
 * @example
 * ```ts
 * const kernel = loadElf(memory, fileImage(fd))
 * kernel.pvhEntry ?? kernel.entry
 * ```
 */
export function loadElf(memory: GuestMemory, image: KernelImage, options: ElfOptions = {}): LoadedKernel {
  const { lowest = HIMEM_START } = options
  const { entry, programHeaders } = readElfHeader(image)
  const segments = programHeaders.filter(h => h.type === PT_LOAD && h.memSize > 0)
  if (segments.length === 0) throw new LoaderError("no-segments")
  segments.sort((a, b) => a.paddr - b.paddr)
  checkPlaces(memory, segments, lowest)
  const pvhEntry = findPvhEntry(image, programHeaders)
  for (const address of pvhEntry === undefined ? [entry] : [entry, pvhEntry])
    if (!segments.some(s => address >= s.paddr && address < s.paddr + s.memSize))
      throw new LoaderError("entry-outside", { at: address })
  copyPieces(memory, image, segments.map(toPiece))
  const last = segments.at(-1)!
  return {
    format: "elf",
    loadAddress: segments[0]!.paddr,
    endAddress: last.paddr + last.memSize,
    entry,
    ...(pvhEntry !== undefined && { pvhEntry }),
  }
}

function checkPlaces(memory: GuestMemory, sorted: readonly ProgramHeader[], lowest: GuestAddress): void {
  let end = lowest
  for (const { where, paddr, memSize } of sorted) {
    const inside = paddr >= lowest && paddr + memSize <= LOW_RAM_LIMIT
    if (!inside || !isRam(memory, paddr, paddr + memSize))
      throw new LoaderError("kernel-address", { offset: where, at: paddr, need: memSize })
    if (paddr < end) throw new LoaderError("segment-overlap", { offset: where, at: paddr, have: end })
    end = paddr + memSize
  }
}

function toPiece({ paddr, memSize, offset, fileSize }: ProgramHeader): Piece {
  return { at: paddr, size: memSize, offset, fileSize }
}
