import type { GuestMemory } from "@ts-vmm/vm-memory"
import { ARM64_IMAGE_MAGIC, ARM64_IMAGE_MAGIC_OFFSET, loadArm64Image } from "./arm64/load-image.js"
import { loadBzImage } from "./bzimage/load-bzimage.js"
import { SETUP_HEADER_MAGIC } from "./bzimage/setup-header.js"
import { ELF_MAGIC } from "./elf/defs.js"
import { loadElf } from "./elf/load-elf.js"
import { LoaderError } from "./errors.js"
import { type KernelImage, readBytes } from "./kernel-image.js"
import type { KernelFormat, LoadedKernel } from "./loaded-kernel.js"

const LOADERS: Record<KernelFormat, (memory: GuestMemory, image: KernelImage) => LoadedKernel> = {
  elf: loadElf,
  bzimage: loadBzImage,
  "arm64-image": loadArm64Image,
}

/** Magic numbers (u32, little-endian) and where they lie. None lies where another one does. */
const MAGICS: readonly { format: KernelFormat; offset: number; magic: number }[] = [
  { format: "elf", offset: 0, magic: ELF_MAGIC },
  { format: "arm64-image", offset: ARM64_IMAGE_MAGIC_OFFSET, magic: ARM64_IMAGE_MAGIC },
  { format: "bzimage", offset: 0x202, magic: SETUP_HEADER_MAGIC },
]

/**
 * Loads a kernel of any known format, recognised by its magic number.
 *
 * @throws LoaderError `unknown-format`, and what `loadElf`, `loadBzImage` and `loadArm64Image` throw
 *
 * @example
 * ```ts
 * const kernel = loadKernel(memory, fileImage(openSync("vmlinuz", "r")))
 * console.log(kernel.format, kernel.entry.toString(16))
 * ```
 */
export function loadKernel(memory: GuestMemory, image: KernelImage): LoadedKernel {
  const format = detectFormat(image)
  if (format === undefined) throw new LoaderError("unknown-format", { offset: 0, have: image.size })
  return LOADERS[format](memory, image)
}

/** Format of an image by its magic number, or undefined. Says nothing about the rest of the image. */
export function detectFormat(image: KernelImage): KernelFormat | undefined {
  return MAGICS.find(({ offset, magic }) => {
    if (image.size < offset + 4) return false
    return new DataView(readBytes(image, offset, 4).buffer).getUint32(0, true) === magic
  })?.format
}
