import { LoaderError } from "../errors.js"
import { type Aml, device, eisaId, integer, method, name, notify, packageOf, scope, string } from "./aml.js"
import type { AcpiRegister } from "./generic-address.js"
import { type AcpiMachine, type AcpiWindow, SLEEP_TYPE_S5 } from "./machine.js"
import { edgeInterrupt, ioPorts, memory32Fixed, resourceTemplate } from "./resources.js"
import { acpiTable, type OemIds } from "./table.js"

const DSDT_REVISION = 2
/** Device names have room for three hexadecimal digits. */
const MAX_WINDOWS = 0x1000
const SERIAL_PORTS = 8
const NOTIFY_BUTTON_PRESSED = 0x80

/** What the machine has, in AML. @see ACPI 6.3, 5.2.11.1 */
export function dsdt(machine: AcpiMachine, oem: OemIds): Uint8Array {
  if (machine.virtioMmio.length > MAX_WINDOWS)
    throw new LoaderError(
      "invalid-argument",
      { need: machine.virtioMmio.length, have: MAX_WINDOWS },
      "windows",
    )
  const devices = [
    ...machine.virtioMmio.map(virtioMmioDevice),
    ...(machine.serial ? [serialDevice(machine.serial)] : []),
    ...(machine.hasCmosRtc ? [rtcDevice()] : []),
    ...powerDevice(machine),
    ...(machine.powerButton ? powerButton(machine.powerButton.gsi) : []),
  ]
  const terms = [scope("\\_SB", devices), ...(machine.sleep ? [sleepStateS5()] : [])]
  return acpiTable("DSDT", DSDT_REVISION, oem, Buffer.concat(terms))
}

/** Linux's virtio-mmio driver binds to this id (with a letter O). @see drivers/virtio/virtio_mmio.c */
function virtioMmioDevice({ base, size, gsi }: AcpiWindow, index: number): Aml {
  return device(`V${index.toString(16).toUpperCase().padStart(3, "0")}`, [
    name("_HID", string("LNRO0005")),
    name("_UID", integer(index)),
    // DMA is coherent: both sides are CPUs.
    name("_CCA", integer(1)),
    name("_CRS", resourceTemplate([memory32Fixed(base, size), edgeInterrupt(gsi)])),
  ])
}

function serialDevice({ port, gsi }: { readonly port: number; readonly gsi: number }): Aml {
  return device("COM1", [
    name("_HID", eisaId("PNP0501")),
    name("_UID", integer(0)),
    name("_DDN", string("COM1")),
    name("_CRS", resourceTemplate([ioPorts(port, SERIAL_PORTS), edgeInterrupt(gsi)])),
  ])
}

function rtcDevice(): Aml {
  return device("RTC", [
    name("_HID", eisaId("PNP0B00")),
    name("_CRS", resourceTemplate([ioPorts(0x70, 2), edgeInterrupt(8)])),
  ])
}

/** Motherboard resources: keeps drivers off the registers that the FADT points at. */
function powerDevice({ resetRegister, sleep }: AcpiMachine): Aml[] {
  const registers = [resetRegister, sleep?.control, sleep?.status].filter(register => register !== undefined)
  const unique = [
    ...new Map(registers.map(register => [`${register.space}${register.address}`, register])).values(),
  ]
  if (unique.length === 0) return []
  return [
    device("PWRR", [
      name("_HID", eisaId("PNP0C02")),
      name("_UID", integer(0)),
      name("_CRS", resourceTemplate(unique.map(registerResource))),
    ]),
  ]
}

function registerResource({ space, address }: AcpiRegister): Uint8Array {
  return space === "io" ? ioPorts(address, 1) : memory32Fixed(address, 1)
}

/** The button, and the generic event device whose interrupt stands for it. @see ACPI 6.3, 5.6.9 */
function powerButton(gsi: number): Aml[] {
  return [
    device("PWRB", [name("_HID", eisaId("PNP0C0C"))]),
    device("GED", [
      name("_HID", string("ACPI0013")),
      name("_UID", integer(0)),
      name("_CRS", resourceTemplate([edgeInterrupt(gsi)])),
      method("_EVT", 1, [notify("\\_SB.PWRB", NOTIFY_BUTTON_PRESSED)]),
    ]),
  ]
}

function sleepStateS5(): Aml {
  return name("\\_S5", packageOf([SLEEP_TYPE_S5, 0, 0, 0].map(integer)))
}
