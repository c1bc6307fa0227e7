/** ELF-64 object file format, version 1 (System V ABI); values for AMD64 from the psABI. */
export const ELF_MAGIC = 0x464c457f
export const EI_CLASS = 4
export const EI_DATA = 5
export const ELFCLASS64 = 2
export const ELFDATA2LSB = 1
export const ET_EXEC = 2
export const ET_DYN = 3
export const EM_X86_64 = 62
export const PT_LOAD = 1
export const PT_NOTE = 4
/** Marks a number of program headers that does not fit; no kernel has that many. */
export const PN_XNUM = 0xffff
export const EHDR_SIZE = 64
export const PHDR_SIZE = 56
export const NHDR_SIZE = 12

/** xen/include/public/elfnote.h: the 32-bit physical entry point of PVH. */
export const XEN_ELFNOTE_PHYS32_ENTRY = 18
export const XEN_NOTE_NAME = "Xen"
