import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { LoaderError } from "../errors.js"
import { type KernelImage, readBytes, requireBytes } from "../kernel-image.js"
import { HIMEM_START, LOW_RAM_LIMIT } from "../layout.js"
import type { LoadedKernel } from "../loaded-kernel.js"
import { alignUp, copyPieces, isRam } from "../placement.js"
import { LOADED_HIGH, readSetupHeader, type SetupHeader, XLF_KERNEL_64 } from "./setup-header.js"

const SECTOR_SIZE = 512
/** The 64-bit entry point, relative to the protected-mode code. */
const ENTRY_64_OFFSET = 0x200

/** First bytes of what a kernel can be packed as; the last one is not packed (an ELF file). */
const PAYLOAD_MAGICS: readonly (readonly number[])[] = [
  [0x1f, 0x8b],
  [0x42, 0x5a],
  [0x5d, 0x00],
  [0xfd, 0x37],
  [0x89, 0x4c],
  [0x02, 0x21],
  [0x28, 0xb5],
  [0x7f, 0x45],
]

/**
 * Loads the protected-mode part of an x86-64 bzImage to its preferred address, where it unpacks itself in
 * place. Nothing is written unless the whole header makes sense.
 *
 * @returns `entry` is the 64-bit one; `endAddress` covers `init_size`, which an initrd must not touch
 * @throws LoaderError `truncated`, `bzimage-…`, `not-relocatable`, `no-64-bit-entry`, `kernel-address`,
 * `image-changed`
 * @see Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"
 *
 * @example
 * ```ts
 * const kernel = loadBzImage(memory, bytesImage(await readFile("bzImage")))
 * ```
 */
export function loadBzImage(memory: GuestMemory, image: KernelImage): LoadedKernel {
  const header = readSetupHeader(image)
  checkBootable(header)
  const offset = (header.setupSects + 1) * SECTOR_SIZE
  // What follows these bytes is no kernel: signatures are appended to the file.
  const size = header.syssize * 16
  if (size <= ENTRY_64_OFFSET)
    throw new LoaderError("bzimage-header", { offset: 0x1f4, have: size }, "syssize")
  requireBytes(image.size, offset, size)
  checkPayload(image, header, offset, size)
  const loadAddress = choosePlace(header)
  const endAddress = loadAddress + Math.max(size, header.initSize)
  if (endAddress > LOW_RAM_LIMIT || !isRam(memory, loadAddress, endAddress))
    throw new LoaderError("kernel-address", { at: loadAddress, need: endAddress - loadAddress })
  copyPieces(memory, image, [{ at: loadAddress, size, offset, fileSize: size }])
  return {
    format: "bzimage",
    loadAddress,
    endAddress,
    entry: loadAddress + ENTRY_64_OFFSET,
    setupHeader: header,
  }
}

function checkBootable(header: SetupHeader): void {
  const { kernelAlignment, loadflags, relocatableKernel, xloadflags } = header
  if (!(loadflags & LOADED_HIGH)) throw new LoaderError("bzimage-header", { offset: 0x211 }, "zImage")
  // It would move itself over whatever lies at its own address.
  if (!relocatableKernel) throw new LoaderError("not-relocatable", { offset: 0x234 })
  if (!(xloadflags & XLF_KERNEL_64)) throw new LoaderError("no-64-bit-entry", { offset: 0x236 })
  if (kernelAlignment === 0 || (kernelAlignment & (kernelAlignment - 1)) !== 0)
    throw new LoaderError("bzimage-header", { offset: 0x230, have: kernelAlignment }, "kernel_alignment")
}

/** A wrong `setup_sects` shows here: the packed kernel is not where it should be. */
function checkPayload(image: KernelImage, header: SetupHeader, base: number, size: number): void {
  const { payloadOffset, payloadLength } = header
  if (payloadOffset === 0 || payloadLength < 2 || payloadOffset + payloadLength > size)
    throw new LoaderError("bzimage-payload", {
      offset: 0x248,
      need: payloadOffset + payloadLength,
      have: size,
    })
  const [first, second] = readBytes(image, base + payloadOffset, 2)
  if (!PAYLOAD_MAGICS.some(magic => magic[0] === first && magic[1] === second))
    throw new LoaderError("bzimage-payload", { offset: base + payloadOffset })
}

/** A kernel below `pref_address` moves there by itself, so it is loaded there at once. */
function choosePlace({ kernelAlignment, prefAddress }: SetupHeader): GuestAddress {
  return alignUp(Math.max(prefAddress, HIMEM_START), kernelAlignment)
}
