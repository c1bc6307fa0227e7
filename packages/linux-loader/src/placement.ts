import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { LoaderError } from "./errors.js"
import type { KernelImage } from "./kernel-image.js"

/** Half-open range of guest addresses. */
export interface Span {
  readonly start: GuestAddress
  readonly end: GuestAddress
}

/** Part of an image and where it goes: `fileSize` bytes of the file, then zeroes up to `size`. */
export interface Piece {
  readonly at: GuestAddress
  readonly size: number
  readonly offset: number
  readonly fileSize: number
}

/** RAM without seams: regions that touch are one span. By rising address. */
export function ramSpans(memory: GuestMemory): Span[] {
  const spans: Span[] = []
  for (const { start, size } of memory.regions) {
    const last = spans.at(-1)
    if (last?.end === start) spans[spans.length - 1] = { start: last.start, end: start + size }
    else spans.push({ start, end: start + size })
  }
  return spans
}

/** True when all of `[start, end)` is RAM. */
export function isRam(memory: GuestMemory, start: GuestAddress, end: GuestAddress): boolean {
  return ramSpans(memory).some(span => start >= span.start && end <= span.end)
}

/** RAM without the spans in `taken`. */
export function freeSpans(memory: GuestMemory, taken: readonly Span[]): Span[] {
  return taken.reduce<Span[]>(
    (free, { start, end }) =>
      free.flatMap(span => [
        { start: span.start, end: Math.min(span.end, start) },
        { start: Math.max(span.start, end), end: span.end },
      ]),
    ramSpans(memory),
  )
}

/** Highest aligned address where `size` bytes fit into one of the spans, or undefined. */
export function highestFit(
  spans: readonly Span[],
  size: number,
  alignment: number,
): GuestAddress | undefined {
  const fits = spans
    .filter(({ start, end }) => end - size >= start)
    .map(({ start, end }) => ({ start, at: alignDown(end - size, alignment) }))
    .filter(({ start, at }) => at >= start)
    .map(({ at }) => at)
  return fits.length > 0 ? Math.max(...fits) : undefined
}

/**
 * Copies checked pieces. A source that fails midway leaves zeroes behind, never half a kernel.
 * @throws LoaderError `truncated`, `image-changed`
 */
export function copyPieces(memory: GuestMemory, image: KernelImage, pieces: readonly Piece[]): void {
  try {
    for (const piece of pieces) copyPiece(memory, image, piece)
    image.verify?.()
  } catch (error) {
    for (const { at, size } of pieces) clear(memory, at, size)
    throw error
  }
}

function copyPiece(memory: GuestMemory, image: KernelImage, piece: Piece): void {
  let offset = piece.offset
  for (const slice of memory.slices(piece.at, piece.fileSize)) {
    image.read(offset, slice)
    offset += slice.length
  }
  clear(memory, piece.at + piece.fileSize, piece.size - piece.fileSize)
}

function clear(memory: GuestMemory, at: GuestAddress, size: number): void {
  for (const slice of size > 0 ? memory.slices(at, size) : []) slice.fill(0)
}

/**
 * Writes a finished table into its area.
 * @throws LoaderError `table-no-room` when it does not fit below `end`, or the area is not guest memory
 */
export function writeTable(
  memory: GuestMemory,
  at: GuestAddress,
  end: GuestAddress,
  table: Uint8Array,
): void {
  requireRoom(memory, at, end, table.length)
  memory.write(at, table)
}

/** @throws LoaderError `table-no-room` unless `size` bytes at `at` are RAM and end by `end` */
export function requireRoom(memory: GuestMemory, at: GuestAddress, end: GuestAddress, size: number): void {
  if (!(Number.isSafeInteger(at) && at >= 0 && at + size <= end && isRam(memory, at, at + size)))
    throw new LoaderError("table-no-room", { at, need: size, have: Math.max(0, end - at) })
}

/** `value` rounded down to a multiple of `alignment`. */
export function alignDown(value: number, alignment: number): number {
  return value - (value % alignment)
}

/** `value` rounded up to a multiple of `alignment`. */
export function alignUp(value: number, alignment: number): number {
  return alignDown(value + alignment - 1, alignment)
}
