export type { AcpiRegister } from "./acpi/generic-address.js"
export { type AcpiMachine, type AcpiWindow, SLEEP_TYPE_S5 } from "./acpi/machine.js"
export { type AcpiTables, writeAcpiTables } from "./acpi/write-acpi-tables.js"
export { loadArm64Image } from "./arm64/load-image.js"
export { type BootParams, writeBootParams } from "./boot/boot-params.js"
export {
  defaultMemoryMap,
  E820_MAX_ENTRIES_ZEROPAGE,
  E820_TYPE_ACPI,
  E820_TYPE_NVS,
  E820_TYPE_RAM,
  E820_TYPE_RESERVED,
  type E820Type,
  type MemoryMapEntry,
} from "./boot/memory-map.js"
export { type PvhStartInfo, writePvhStartInfo, XEN_HVM_START_MAGIC_VALUE } from "./boot/pvh-start-info.js"
export { rngSeed, SETUP_RNG_SEED, type SetupData } from "./boot/setup-data.js"
export { loadBzImage } from "./bzimage/load-bzimage.js"
export { readSetupHeader, type SetupHeader } from "./bzimage/setup-header.js"
export { Cmdline, COMMAND_LINE_SIZE, type VirtioMmioDevice } from "./cmdline.js"
export { type ElfOptions, loadElf } from "./elf/load-elf.js"
export { LoaderError, type LoaderErrorCode, type LoaderErrorFields } from "./errors.js"
export { describeBoot, FDT_MAX_SIZE, type FdtBoot, writeFdt } from "./fdt/boot.js"
export { FdtBuilder } from "./fdt/builder.js"
export { FdtNode } from "./fdt/node.js"
export { type LoadedInitrd, loadInitrd } from "./initrd.js"
export { bytesImage, fileImage, type KernelImage } from "./kernel-image.js"
export * from "./layout.js"
export { detectFormat, loadKernel } from "./load-kernel.js"
export type { KernelFormat, LoadedKernel } from "./loaded-kernel.js"
export { type MpTable, writeMpTable } from "./mp-table.js"
