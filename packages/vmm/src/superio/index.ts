export {
  ACPI_POWER_SIZE,
  ACPI_RESET_VALUE,
  ACPI_SLEEP_TYPE_S5,
  AcpiPower,
  type AcpiPowerOptions,
  RESET_OFFSET,
  SLEEP_CONTROL_OFFSET,
  SLEEP_STATUS_OFFSET,
} from "./acpi-power.js"
export { CMOS_SIZE, Cmos, type CmosOptions } from "./cmos.js"
export { I8042, I8042_SIZE, type I8042Options } from "./i8042.js"
export { Serial, type SerialCounters, type SerialOptions, type SerialState } from "./serial.js"
export { SERIAL_SIZE } from "./serial-registers.js"
