import { LoaderError } from "../errors.js"
import { type KernelImage, readBytes } from "../kernel-image.js"

/** Where the setup header lies, both in a bzImage and in the zero page. */
export const SETUP_HEADER_OFFSET = 0x1f1
/** The zero page has other things from here on: no setup header is longer. */
export const SETUP_HEADER_LIMIT = 0x290
/** "HdrS". */
export const SETUP_HEADER_MAGIC = 0x53726448
/** In front of the magic: the end of a boot sector. */
export const BOOT_FLAG = 0xaa55
/** Protocol that a decoded header has at least. */
export const OLDEST_PROTOCOL = 0x206
/** The kernel has a 64-bit entry point at 0x200 (protocol 2.12). */
export const XLF_KERNEL_64 = 1 << 0
/** `loadflags`: the protected-mode code is loaded high. */
export const LOADED_HIGH = 1 << 0

/** The setup header of a bzImage, decoded; names are those of boot.rst in camelCase. */
export interface SetupHeader {
  /** Protocol version, 0x206 for 2.06. */
  readonly version: number
  /** Sectors of real-mode code behind the boot sector; 0 was resolved to 4. */
  readonly setupSects: number
  /** Protected-mode code in units of 16 bytes. */
  readonly syssize: number
  readonly loadflags: number
  /** Highest address that the initrd's last byte may have. */
  readonly initrdAddrMax: number
  /** Longest command line, without its NUL. */
  readonly cmdlineSize: number
  readonly kernelAlignment: number
  readonly relocatableKernel: boolean
  /** `XLF_…` bits; 0 before protocol 2.12. */
  readonly xloadflags: number
  /** Compressed kernel, relative to the protected-mode code. 0 before protocol 2.08. */
  readonly payloadOffset: number
  readonly payloadLength: number
  /** Where the kernel likes to run. 0 before protocol 2.10. */
  readonly prefAddress: number
  /** Contiguous memory that the kernel needs from its runtime address on. 0 before protocol 2.10. */
  readonly initSize: number
  /** The header itself, from offset 0x1f1, as it goes into the zero page. */
  readonly bytes: Uint8Array
}

/**
 * Decodes and checks the setup header from one copy of it.
 * @throws LoaderError `truncated`, `bzimage-magic`, `bzimage-version`, `bzimage-header`
 * @see Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"
 */
export function readSetupHeader(image: KernelImage): SetupHeader {
  const sector = readBytes(image, 0, SETUP_HEADER_LIMIT)
  const view = new DataView(sector.buffer)
  if (view.getUint16(0x1fe, true) !== BOOT_FLAG) throw new LoaderError("bzimage-magic", { offset: 0x1fe })
  if (view.getUint32(0x202, true) !== SETUP_HEADER_MAGIC)
    throw new LoaderError("bzimage-magic", { offset: 0x202 })
  const version = view.getUint16(0x206, true)
  if (version < OLDEST_PROTOCOL)
    throw new LoaderError("bzimage-version", { offset: 0x206, need: OLDEST_PROTOCOL, have: version })
  // The header ends where its leading jump goes to.
  const end = 0x202 + view.getUint8(0x201)
  if (end > SETUP_HEADER_LIMIT || end < minimumEnd(version))
    throw new LoaderError("bzimage-header", { offset: 0x201, have: end })
  return decode(view, version, sector.subarray(SETUP_HEADER_OFFSET, end))
}

/** First byte behind the fields that this protocol version promises. */
function minimumEnd(version: number): number {
  if (version >= 0x20a) return 0x264
  return version >= 0x208 ? 0x250 : 0x23c
}

function decode(view: DataView, version: number, bytes: Uint8Array): SetupHeader {
  const since = (first: number, at: number) => (version >= first ? view.getUint32(at, true) : 0)
  const prefHigh = since(0x20a, 0x25c)
  if (prefHigh !== 0)
    throw new LoaderError("bzimage-header", { offset: 0x258, have: prefHigh }, "pref_address")
  return {
    version,
    setupSects: view.getUint8(0x1f1) || 4,
    syssize: view.getUint32(0x1f4, true),
    loadflags: view.getUint8(0x211),
    initrdAddrMax: view.getUint32(0x22c, true),
    cmdlineSize: view.getUint32(0x238, true),
    kernelAlignment: view.getUint32(0x230, true),
    relocatableKernel: view.getUint8(0x234) !== 0,
    xloadflags: version >= 0x20c ? view.getUint16(0x236, true) : 0,
    payloadOffset: since(0x208, 0x248),
    payloadLength: since(0x208, 0x24c),
    prefAddress: since(0x20a, 0x258),
    initSize: since(0x20a, 0x260),
    bytes,
  }
}
