import { type BigIntStats, fstatSync, readSync } from "node:fs"
import { LoaderError } from "./errors.js"

/**
 * Bytes of a kernel or initrd, read by position. Loaders read headers into copies of their own and the rest
 * straight into guest memory.
 */
export interface KernelImage {
  /** Length in bytes, fixed when the image was opened. */
  readonly size: number
  /**
   * Fills all of `into` from `offset` on.
   * @throws LoaderError `truncated` when the image is shorter
   */
  read(offset: number, into: Uint8Array): void
  /**
   * Called once all was read.
   * @throws LoaderError `image-changed` when what was read may be a mixture of two versions
   */
  verify?(): void
}

/**
 * An image that is in memory. The bytes are not copied: do not change them while they are loaded.
 *
 * @example
 * ```ts
 * const kernel = loadKernel(memory, bytesImage(await readFile("vmlinux")))
 * ```
 */
export function bytesImage(bytes: Uint8Array): KernelImage {
  return {
    size: bytes.length,
    read(offset, into) {
      requireBytes(bytes.length, offset, into.length)
      into.set(bytes.subarray(offset, offset + into.length))
    },
  }
}

/**
 * An image in an open regular file, read with `pread` straight to where it goes. The descriptor stays the
 * caller's; it may be closed as soon as the loader returned.
 *
 * @throws LoaderError `not-a-file`; errors of `fstat` as Node throws them
 *
 * @example
 * ```ts
 * const fd = openSync("vmlinux", "r")
 * const kernel = loadKernel(memory, fileImage(fd))
 * ```
 */
export function fileImage(fd: number): KernelImage {
  const opened = fstatSync(fd, { bigint: true })
  if (!opened.isFile()) throw new LoaderError("not-a-file")
  const size = Number(opened.size)
  return {
    size,
    read(offset, into) {
      requireBytes(size, offset, into.length)
      for (let done = 0; done < into.length; ) {
        const count = readSync(fd, into, done, into.length - done, offset + done)
        if (count === 0)
          throw new LoaderError("truncated", { offset: offset + done, need: into.length - done })
        done += count
      }
    },
    verify() {
      if (!sameFile(opened, fstatSync(fd, { bigint: true }))) throw new LoaderError("image-changed")
    },
  }
}

/**
 * A copy of `size` bytes at `offset`.
 * @throws LoaderError `truncated` before anything of that size is allocated
 */
export function readBytes(image: KernelImage, offset: number, size: number): Uint8Array {
  requireBytes(image.size, offset, size)
  const bytes = new Uint8Array(size)
  image.read(offset, bytes)
  return bytes
}

/** @throws LoaderError `truncated` unless `[offset, offset + size)` lies inside `have` bytes */
export function requireBytes(have: number, offset: number, size: number): void {
  if (!(Number.isSafeInteger(offset) && offset >= 0 && offset + size <= have))
    throw new LoaderError("truncated", { offset, need: size, have })
}

function sameFile(a: BigIntStats, b: BigIntStats): boolean {
  return a.size === b.size && a.mtimeNs === b.mtimeNs && a.ctimeNs === b.ctimeNs
}
