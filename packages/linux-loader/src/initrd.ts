import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { LoaderError } from "./errors.js"
import type { KernelImage } from "./kernel-image.js"
import { HIMEM_START, INITRD_ADDR_MAX } from "./layout.js"
import type { LoadedKernel } from "./loaded-kernel.js"
import { alignDown, copyPieces, freeSpans, highestFit, type Span } from "./placement.js"

const PAGE_SIZE = 4096
/** Kernel and initrd lie in one window of this size and alignment. @see Documentation/arch/arm64/booting.rst */
const ARM64_WINDOW_SIZE = 32 * 2 ** 30
const ARM64_WINDOW_ALIGNMENT = 2 ** 30

/** An initrd in guest memory. */
export interface LoadedInitrd {
  /** Guest address, a multiple of 4096. */
  readonly address: GuestAddress
  /** Length in bytes, as in the file. */
  readonly size: number
}

/**
 * Loads an initrd (or initramfs) as high as the kernel allows: below its `initrd_addr_max` and the end of
 * RAM, clear of all that the kernel needs for itself.
 *
 * @param kernel what `loadKernel` returned for the same memory
 * @throws LoaderError `initrd-empty`, `initrd-no-room`, `truncated`, `image-changed`
 *
 * @example
 * ```ts
 * const kernel = loadKernel(memory, fileImage(kernelFd))
 * const initrd = loadInitrd(memory, fileImage(initrdFd), kernel)
 * ```
 */
export function loadInitrd(memory: GuestMemory, image: KernelImage, kernel: LoadedKernel): LoadedInitrd {
  const { size } = image
  if (size === 0) throw new LoaderError("initrd-empty")
  const allowed = allowedSpan(kernel)
  const free = freeSpans(memory, [{ start: kernel.loadAddress, end: kernel.endAddress }])
  const address = highestFit(
    free.map(span => clip(span, allowed)),
    size,
    PAGE_SIZE,
  )
  if (address === undefined) throw new LoaderError("initrd-no-room", { need: size, have: kernel.endAddress })
  copyPieces(memory, image, [{ at: address, size, offset: 0, fileSize: size }])
  return { address, size }
}

/** Where a kernel takes an initrd. */
function allowedSpan({ format, loadAddress, setupHeader }: LoadedKernel): Span {
  if (format === "arm64-image") {
    const start = alignDown(loadAddress, ARM64_WINDOW_ALIGNMENT)
    return { start, end: start + ARM64_WINDOW_SIZE }
  }
  return { start: HIMEM_START, end: (setupHeader?.initrdAddrMax ?? INITRD_ADDR_MAX) + 1 }
}

function clip(span: Span, to: Span): Span {
  return { start: Math.max(span.start, to.start), end: Math.min(span.end, to.end) }
}
