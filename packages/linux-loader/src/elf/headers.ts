import { LoaderError } from "../errors.js"
import { type KernelImage, readBytes, requireBytes } from "../kernel-image.js"
import * as elf from "./defs.js"

/** What the loader uses of the file header. */
export interface ElfHeader {
  readonly entry: number
  readonly programHeaders: readonly ProgramHeader[]
}

/** What the loader uses of a program header. Every number is below 2^53. */
export interface ProgramHeader {
  readonly type: number
  /** Offset of this header in the file, for errors. */
  readonly where: number
  readonly offset: number
  readonly paddr: number
  readonly fileSize: number
  readonly memSize: number
  readonly align: number
}

/** Decodes and checks the file header and the program header table from copies of them. */
export function readElfHeader(image: KernelImage): ElfHeader {
  const bytes = readBytes(image, 0, elf.EHDR_SIZE)
  const view = new DataView(bytes.buffer)
  checkIdentity(view)
  const offset = toNumber(view, 32)
  const entrySize = view.getUint16(54, true)
  const count = view.getUint16(56, true)
  if (entrySize !== elf.PHDR_SIZE)
    throw new LoaderError("elf-program-headers", { offset: 54, need: elf.PHDR_SIZE, have: entrySize })
  if (count === 0 || count === elf.PN_XNUM)
    throw new LoaderError("elf-program-headers", { offset: 56, have: count })
  const table = readBytes(image, offset, count * elf.PHDR_SIZE)
  const programHeaders = Array.from({ length: count }, (_, i) =>
    decodeProgramHeader(
      new DataView(table.buffer, i * elf.PHDR_SIZE, elf.PHDR_SIZE),
      offset + i * elf.PHDR_SIZE,
    ),
  )
  for (const header of programHeaders) checkProgramHeader(header, image.size)
  return { entry: toNumber(view, 24), programHeaders }
}

function checkIdentity(view: DataView): void {
  if (view.getUint32(0, true) !== elf.ELF_MAGIC) throw new LoaderError("elf-magic", { offset: 0 })
  if (view.getUint8(elf.EI_CLASS) !== elf.ELFCLASS64)
    throw new LoaderError("elf-class", { offset: elf.EI_CLASS })
  if (view.getUint8(elf.EI_DATA) !== elf.ELFDATA2LSB)
    throw new LoaderError("elf-endianness", { offset: elf.EI_DATA })
  const type = view.getUint16(16, true)
  if (type !== elf.ET_EXEC && type !== elf.ET_DYN)
    throw new LoaderError("elf-type", { offset: 16, have: type })
  const machine = view.getUint16(18, true)
  if (machine !== elf.EM_X86_64) throw new LoaderError("elf-machine", { offset: 18, have: machine })
}

function decodeProgramHeader(view: DataView, where: number): ProgramHeader {
  return {
    type: view.getUint32(0, true),
    where,
    offset: toNumber(view, 8),
    paddr: toNumber(view, 24),
    fileSize: toNumber(view, 32),
    memSize: toNumber(view, 40),
    align: toNumber(view, 48),
  }
}

/** Only what is going to be used is checked: other types may hold anything. */
function checkProgramHeader(
  { type, where, offset, fileSize, memSize }: ProgramHeader,
  imageSize: number,
): void {
  if (type !== elf.PT_LOAD && type !== elf.PT_NOTE) return
  if (![offset, fileSize, memSize].every(Number.isSafeInteger))
    throw new LoaderError("segment-size", { offset: where })
  if (type === elf.PT_LOAD && fileSize > memSize)
    throw new LoaderError("segment-size", { offset: where, need: fileSize, have: memSize })
  requireBytes(imageSize, offset, fileSize)
}

/** A u64 as a number; from 2^53 on it is infinite, which no range check lets pass. */
function toNumber(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true)
  return high >= 2 ** 21 ? Number.POSITIVE_INFINITY : high * 2 ** 32 + view.getUint32(at, true)
}
