import type { GuestMemory } from "@ts-vmm/vm-memory"
import { LoaderError } from "../errors.js"
import { type KernelImage, readBytes } from "../kernel-image.js"
import type { LoadedKernel } from "../loaded-kernel.js"
import { alignUp, copyPieces, isRam } from "../placement.js"

/** "ARM\x64" at offset 56. */
export const ARM64_IMAGE_MAGIC = 0x644d5241
export const ARM64_IMAGE_MAGIC_OFFSET = 56
const HEADER_SIZE = 64
const FLAG_BIG_ENDIAN = 1
/** The kernel starts at a fixed offset from an address aligned so. */
const BASE_ALIGNMENT = 2 * 2 ** 20

/**
 * Loads an arm64 `Image` at its text offset behind the first 2 MiB boundary of RAM.
 *
 * @returns `endAddress` covers `image_size`: bss and early page tables
 * @throws LoaderError `truncated`, `arm64-…`, `kernel-address`, `image-changed`
 * @see Documentation/arch/arm64/booting.rst, section 4
 *
 * @example
 * ```ts
 * const memory = mmapMemory([{ start: 0x8000_0000, size: 512 * 2 ** 20 }])
 * const kernel = loadArm64Image(memory, fileImage(fd))
 * ```
 */
export function loadArm64Image(memory: GuestMemory, image: KernelImage): LoadedKernel {
  const { textOffset, imageSize } = readHeader(image)
  if (imageSize < image.size)
    throw new LoaderError("arm64-header", { offset: 16, need: image.size, have: imageSize })
  const loadAddress = alignUp(memory.regions[0]!.start, BASE_ALIGNMENT) + textOffset
  const endAddress = loadAddress + imageSize
  if (!isRam(memory, loadAddress, endAddress))
    throw new LoaderError("kernel-address", { at: loadAddress, need: imageSize })
  copyPieces(memory, image, [{ at: loadAddress, size: imageSize, offset: 0, fileSize: image.size }])
  return { format: "arm64-image", loadAddress, endAddress, entry: loadAddress }
}

function readHeader(image: KernelImage): { textOffset: number; imageSize: number } {
  const view = new DataView(readBytes(image, 0, HEADER_SIZE).buffer)
  if (view.getUint32(ARM64_IMAGE_MAGIC_OFFSET, true) !== ARM64_IMAGE_MAGIC)
    throw new LoaderError("arm64-magic", { offset: ARM64_IMAGE_MAGIC_OFFSET })
  if (view.getBigUint64(24, true) & BigInt(FLAG_BIG_ENDIAN))
    throw new LoaderError("arm64-endianness", { offset: 24 })
  const textOffset = view.getBigUint64(8, true)
  if (textOffset >= BigInt(BASE_ALIGNMENT) || textOffset % 4096n !== 0n)
    throw new LoaderError("arm64-header", { offset: 8 }, "text_offset")
  const imageSize = view.getBigUint64(16, true)
  // 0 means a kernel before 3.17, whose needs nobody knows.
  if (imageSize === 0n || imageSize >= 2n ** 40n)
    throw new LoaderError("arm64-header", { offset: 16 }, "image_size")
  return { textOffset: Number(textOffset), imageSize: Number(imageSize) }
}
