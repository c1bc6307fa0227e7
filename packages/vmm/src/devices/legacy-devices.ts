import type { ExitRow, ExitTable } from "@ts-vmm/native"
import type { GuestMemory } from "@ts-vmm/vm-memory"
import { ACPI_POWER_PORT, CMOS_PORT, HIGH_RAM_START, I8042_GSI, I8042_PORT } from "../arch/x86-64/layout.js"
import type { Bus } from "../bus.js"
import type { MachineEnd } from "../events.js"
import { ACPI_POWER_SIZE, AcpiPower } from "../superio/acpi-power.js"
import { CMOS_SIZE, Cmos } from "../superio/cmos.js"
import { I8042, I8042_SIZE } from "../superio/i8042.js"
import { IrqLine, type IrqVm } from "./irq-line.js"
import { SerialPort } from "./serial-port.js"

const POWER_OFF: MachineEnd = { kind: "power-off", description: "the guest powered off" }
const RESET: MachineEnd = { kind: "reset", description: "the guest reset the machine" }

/** What the legacy devices are joined to. */
export interface LegacyHost {
  readonly vm: IrqVm
  readonly table: ExitTable
  readonly ports: Bus
  readonly memory: GuestMemory
  /** Cell of the exit table for the serial port's line status. */
  readonly statusCell: number
  readonly host: { onConsole(bytes: Uint8Array): void; onEnd(reason: MachineEnd): void }
}

/** What a PC has on its ports and this machine too: serial port, keyboard controller, clock, power control. */
export class LegacyDevices {
  readonly serialPort: SerialPort
  readonly #keyboardLine: IrqLine

  /** @throws KvmError `ioctl`; SysError `EMFILE` */
  constructor({ vm, table, ports, memory, host, statusCell }: LegacyHost) {
    this.serialPort = new SerialPort(vm, table, statusCell, bytes => host.onConsole(bytes))
    this.#keyboardLine = new IrqLine(vm, I8042_GSI)
    const reset = () => host.onEnd(RESET)
    ports
      .insert(SerialPort.range, this.serialPort.serial)
      .insert(
        { base: I8042_PORT, size: I8042_SIZE },
        new I8042({ interrupt: () => this.#keyboardLine.raise(), onReset: reset }),
      )
      .insert({ base: CMOS_PORT, size: CMOS_SIZE }, new Cmos(ramSizes(memory)))
      .insert(
        { base: ACPI_POWER_PORT, size: ACPI_POWER_SIZE },
        new AcpiPower({ onPowerOff: () => host.onEnd(POWER_OFF), onReset: reset }),
      )
  }

  /** How vCPU threads answer accesses to these devices; to be there before they are made. */
  static rows(statusCell: number): ExitRow[] {
    const delivered = (base: number, size: number): ExitRow => ({
      space: "pio",
      start: base,
      end: base + size,
      read: "deliver",
      write: "deliver",
    })
    return [
      ...SerialPort.rows(statusCell),
      delivered(I8042_PORT, I8042_SIZE),
      delivered(CMOS_PORT, CMOS_SIZE),
      delivered(ACPI_POWER_PORT, ACPI_POWER_SIZE),
    ]
  }

  close(): void {
    this.serialPort.close()
    this.#keyboardLine.close()
  }
}

function ramSizes({ regions }: GuestMemory): { lowMemorySize: number; highMemorySize: number } {
  const sum = (high: boolean) =>
    regions.reduce((size, one) => (one.start >= HIGH_RAM_START === high ? size + one.size : size), 0)
  return { lowMemorySize: sum(false), highMemorySize: sum(true) }
}
