import type { BusDevice } from "../bus.js"

/** Sleep control register; writing it with the enable bit ends the machine. */
export const SLEEP_CONTROL_OFFSET = 0
/** Sleep status register; it only ever says that the machine is awake. */
export const SLEEP_STATUS_OFFSET = 1
/** Reset register. */
export const RESET_OFFSET = 2
/** Number of ports. */
export const ACPI_POWER_SIZE = 3

/** The value that FADT's RESET_VALUE has to name. */
export const ACPI_RESET_VALUE = 0x01
/** The sleep type that the DSDT's `_S5` has to name. */
export const ACPI_SLEEP_TYPE_S5 = 5

/** @see ACPI 6.5, section 4.8.3.7, "Sleep Control Register" */
const SLEEP_ENABLE_BIT = 0x20
const SLEEP_TYPE_SHIFT = 2
const SLEEP_TYPE_MASK = 0x7

/** Who is told. */
export interface AcpiPowerOptions {
  /** The guest powers off. */
  readonly onPowerOff: () => void
  /** The guest resets. */
  readonly onReset: () => void
}

/**
 * Power-off and reset for a hardware-reduced ACPI guest: three byte ports.
 *
 * @see ACPI 6.5, sections 4.8.3.6 "Reset Register" and 4.8.3.7 "Sleep Control and Status Registers"
 *
 * @example
 * ```ts
 * import { AcpiPower, ACPI_POWER_SIZE } from "@ts-vmm/vmm/superio"
 *
 * const power = new AcpiPower({ onPowerOff: () => machine.stop(), onReset: () => machine.stop() })
 * ports.insert({ base: 0x600, size: ACPI_POWER_SIZE }, power)
 * ```
 */
export class AcpiPower implements BusDevice {
  readonly #options: AcpiPowerOptions

  constructor(options: AcpiPowerOptions) {
    this.#options = options
  }

  read(_offset: number, into: Uint8Array): void {
    into.fill(0)
  }

  write(offset: number, from: Uint8Array): void {
    const value = from[0] ?? 0
    if (offset === SLEEP_CONTROL_OFFSET && value & SLEEP_ENABLE_BIT) {
      if (((value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK) === ACPI_SLEEP_TYPE_S5) this.#options.onPowerOff()
    }
    if (offset === RESET_OFFSET && value === ACPI_RESET_VALUE) this.#options.onReset()
  }
}
