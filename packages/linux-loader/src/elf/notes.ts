import { LoaderError } from "../errors.js"
import { type KernelImage, readBytes } from "../kernel-image.js"
import { alignUp } from "../placement.js"
import { NHDR_SIZE, PT_NOTE, XEN_ELFNOTE_PHYS32_ENTRY, XEN_NOTE_NAME } from "./defs.js"
import type { ProgramHeader } from "./headers.js"

/** All notes of a kernel take well under 4 KiB. */
const MAX_NOTES_SIZE = 64 * 1024

/**
 * The 32-bit entry point that a Xen note names, or undefined. The first such note counts.
 * @throws LoaderError `malformed-note` for a note that does not fit its segment
 */
export function findPvhEntry(image: KernelImage, headers: readonly ProgramHeader[]): number | undefined {
  for (const header of headers) {
    if (header.type !== PT_NOTE || header.fileSize === 0) continue
    if (header.fileSize > MAX_NOTES_SIZE)
      throw new LoaderError("malformed-note", {
        offset: header.where,
        need: header.fileSize,
        have: MAX_NOTES_SIZE,
      })
    const entry = scanNotes(readBytes(image, header.offset, header.fileSize), header)
    if (entry !== undefined) return entry
  }
  return undefined
}

function scanNotes(bytes: Uint8Array, { offset, align }: ProgramHeader): number | undefined {
  const view = new DataView(bytes.buffer)
  // The generic ABI says 8 for 64-bit files, practice says 4 unless the segment itself is aligned to 8.
  const alignment = align === 8 ? 8 : 4
  for (let at = 0; at + NHDR_SIZE <= bytes.length; ) {
    const nameSize = view.getUint32(at, true)
    const descSize = view.getUint32(at + 4, true)
    const type = view.getUint32(at + 8, true)
    const name = at + NHDR_SIZE
    const desc = alignUp(name + nameSize, alignment)
    if (name + nameSize > bytes.length || desc + descSize > bytes.length)
      throw new LoaderError("malformed-note", {
        offset: offset + at,
        need: nameSize + descSize,
        have: bytes.length,
      })
    if (type === XEN_ELFNOTE_PHYS32_ENTRY && isXen(bytes.subarray(name, name + nameSize)))
      return decodeEntry(view, desc, descSize, offset + at)
    at = alignUp(desc + descSize, alignment)
  }
  return undefined
}

function isXen(name: Uint8Array): boolean {
  return (
    name.length === XEN_NOTE_NAME.length + 1 && Buffer.from(name).toString("latin1") === `${XEN_NOTE_NAME}\0`
  )
}

/** Linux writes the address as 8 bytes, others as 4; either way it has to fit 32 bits. */
function decodeEntry(view: DataView, desc: number, size: number, offset: number): number {
  if (size !== 4 && size !== 8) throw new LoaderError("malformed-note", { offset, have: size })
  if (size === 8 && view.getUint32(desc + 4, true) !== 0) throw new LoaderError("malformed-note", { offset })
  return view.getUint32(desc, true)
}
