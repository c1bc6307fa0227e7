import type { GuestAddress } from "@ts-vmm/vm-memory"
import { genericAddress } from "./generic-address.js"
import type { AcpiMachine } from "./machine.js"
import { acpiTable, type OemIds, requireUnsigned, TABLE_HEADER_SIZE } from "./table.js"

/** ACPI 6.3, 5.2.9 */
const FADT_SIZE = 276
const FADT_REVISION = 6
const FADT_MINOR_REVISION = 3

/** Table 5-34, "Fixed Feature Flags" */
const FLAG = {
  wbinvd: 1 << 0,
  procC1: 1 << 2,
  /** No fixed power button; one may be a device. */
  pwrButton: 1 << 4,
  slpButton: 1 << 5,
  resetRegSup: 1 << 10,
  headless: 1 << 12,
  hwReducedAcpi: 1 << 20,
} as const

/** Table 5-35, "IA-PC Boot Architecture Flags" */
const BOOT_ARCH = {
  legacyDevices: 1 << 0,
  i8042: 1 << 1,
  vgaNotPresent: 1 << 2,
  cmosRtcNotPresent: 1 << 5,
} as const

/** Offsets in the table */
const OFFSET = {
  dsdt: 40,
  iapcBootArch: 109,
  flags: 112,
  resetReg: 116,
  resetValue: 128,
  minorRevision: 131,
  xDsdt: 140,
  sleepControlReg: 244,
  sleepStatusReg: 256,
  hypervisorVendorIdentity: 268,
} as const

/** Hardware-reduced ACPI: none of the fixed registers, power off and reset by registers of one byte. */
export function fadt(machine: AcpiMachine, oem: OemIds, dsdtAddress: GuestAddress): Uint8Array {
  const table = new Uint8Array(FADT_SIZE)
  const view = new DataView(table.buffer)
  const { resetRegister, sleep } = machine
  view.setUint32(OFFSET.dsdt, dsdtAddress, true)
  view.setBigUint64(OFFSET.xDsdt, BigInt(dsdtAddress), true)
  view.setUint16(OFFSET.iapcBootArch, bootArchitecture(machine), true)
  const flags =
    FLAG.wbinvd | FLAG.procC1 | FLAG.pwrButton | FLAG.slpButton | FLAG.headless | FLAG.hwReducedAcpi
  view.setUint32(OFFSET.flags, flags | (resetRegister ? FLAG.resetRegSup : 0), true)
  table[OFFSET.minorRevision] = FADT_MINOR_REVISION
  if (resetRegister) {
    requireUnsigned(resetRegister.value, 8, "reset value")
    table.set(genericAddress(resetRegister), OFFSET.resetReg)
    table[OFFSET.resetValue] = resetRegister.value
  }
  if (sleep) {
    table.set(genericAddress(sleep.control), OFFSET.sleepControlReg)
    table.set(genericAddress(sleep.status), OFFSET.sleepStatusReg)
  }
  table.set(Buffer.from("ts-vmm"), OFFSET.hypervisorVendorIdentity)
  return acpiTable("FACP", FADT_REVISION, oem, table.subarray(TABLE_HEADER_SIZE))
}

function bootArchitecture({ serial, hasI8042 = false, hasCmosRtc = false }: AcpiMachine): number {
  return (
    BOOT_ARCH.vgaNotPresent |
    (serial || hasI8042 ? BOOT_ARCH.legacyDevices : 0) |
    (hasI8042 ? BOOT_ARCH.i8042 : 0) |
    (hasCmosRtc ? 0 : BOOT_ARCH.cmosRtcNotPresent)
  )
}
