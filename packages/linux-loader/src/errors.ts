/**
 * What this package can refuse.
 *
 * Images: `truncated` bytes that the image's own headers call for are not there; `not-a-file` a descriptor of
 * something else than a regular file; `image-changed` the file was written while it was read;
 * `unknown-format` none of the formats' magic numbers.
 *
 * ELF: `elf-magic`, `elf-class` (not 64-bit), `elf-endianness`, `elf-machine` (not x86-64), `elf-type`,
 * `elf-program-headers` (entry size, number), `no-segments`, `segment-size` (more bytes in the file than in
 * memory), `segment-overlap`, `malformed-note`.
 *
 * bzImage: `bzimage-magic`, `bzimage-version` (protocol below 2.06), `bzimage-header` (a field with an
 * impossible value), `bzimage-payload` (no compressed kernel where the header says), `not-relocatable`,
 * `no-64-bit-entry`.
 *
 * arm64 Image: `arm64-magic`, `arm64-endianness`, `arm64-header`.
 *
 * Places in the guest: `kernel-address` a kernel that does not lie wholly in RAM the loader may use;
 * `entry-outside` an entry point outside of what was loaded; `initrd-empty`, `initrd-no-room`;
 * `table-no-room` tables that do not fit their area or lie outside of guest memory.
 *
 * Command line: `cmdline-too-long`, `cmdline-character` (control or non-ASCII), `cmdline-key`,
 * `cmdline-quote`, `cmdline-device`.
 *
 * Tables: `memory-map` (too many entries, an entry that is no range, or none), `invalid-argument` a
 * description that the table's format cannot express.
 */
export type LoaderErrorCode = keyof typeof MESSAGES

const MESSAGES = {
  truncated: "image ends before bytes its headers call for",
  "not-a-file": "image is not a regular file",
  "image-changed": "image was written while it was read",
  "unknown-format": "image is no ELF, bzImage or arm64 Image",
  "elf-magic": "image is no ELF file",
  "elf-class": "ELF file is not 64-bit",
  "elf-endianness": "ELF file is not little-endian",
  "elf-machine": "ELF file is not for x86-64",
  "elf-type": "ELF file is neither an executable nor position-independent",
  "elf-program-headers": "ELF program header table is malformed",
  "no-segments": "ELF file has nothing to load",
  "segment-size": "segment has more bytes in the file than in memory",
  "segment-overlap": "segments overlap",
  "malformed-note": "ELF note is malformed",
  "bzimage-magic": "image is no bzImage",
  "bzimage-version": "boot protocol is older than 2.06",
  "bzimage-header": "setup header has an impossible value",
  "bzimage-payload": "no compressed kernel where the setup header says",
  "not-relocatable": "kernel is not relocatable",
  "no-64-bit-entry": "kernel has no 64-bit entry point",
  "arm64-magic": "image is no arm64 Image",
  "arm64-endianness": "arm64 kernel is big-endian",
  "arm64-header": "arm64 Image header has an impossible value",
  "kernel-address": "kernel does not lie in usable guest memory",
  "entry-outside": "entry point lies outside of what is loaded",
  "initrd-empty": "initrd is empty",
  "initrd-no-room": "initrd does not fit beside the kernel",
  "table-no-room": "table does not fit its place in guest memory",
  "cmdline-too-long": "command line is too long",
  "cmdline-character": "command line has a control or non-ASCII character",
  "cmdline-key": "not a parameter name",
  "cmdline-quote": "command line has an unbalanced or nested quote",
  "cmdline-device": "device window cannot be written on the command line",
  "memory-map": "memory map cannot be passed on",
  "invalid-argument": "description does not fit the table's format",
} as const

/** Numbers that say where and how much. All optional; bytes and addresses. */
export interface LoaderErrorFields {
  /** Offset in the image (or character index in a command line) of what was refused. */
  readonly offset?: number
  /** Guest address concerned. */
  readonly at?: number
  /** What is needed, or what was found where `have` is the limit. */
  readonly need?: number
  /** What there is. */
  readonly have?: number
}

/**
 * The one error of this package; tell the cases apart by `code`.
 *
 * @example
 * ```ts
 * try { loadKernel(memory, image) } catch (e) { if (e instanceof LoaderError && e.code === "unknown-format") usage() }
 * ```
 */
export class LoaderError extends Error {
  override readonly name = "LoaderError"
  /** What was refused; closed set. */
  readonly code: LoaderErrorCode
  /** Offset in the image (or character index in a command line), where there is one. */
  readonly offset: number | undefined
  /** Guest address concerned, where there is one. */
  readonly at: number | undefined
  /** What is needed. */
  readonly need: number | undefined
  /** What there is. */
  readonly have: number | undefined

  constructor(
    code: LoaderErrorCode,
    fields: LoaderErrorFields = {},
    detail?: string,
    options?: ErrorOptions,
  ) {
    super(`${MESSAGES[code]}${detail ? ` (${detail})` : ""}${describe(fields)}`, options)
    this.code = code
    this.offset = fields.offset
    this.at = fields.at
    this.need = fields.need
    this.have = fields.have
  }
}

function describe(fields: LoaderErrorFields): string {
  const parts = (["offset", "at", "need", "have"] as const)
    .filter(name => fields[name] !== undefined)
    .map(name => `${name} 0x${fields[name]!.toString(16)}`)
  return parts.length > 0 ? `: ${parts.join(", ")}` : ""
}
