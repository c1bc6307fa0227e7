import { expect, test } from "vitest"
import {
  ACPI_RESET_VALUE,
  AcpiPower,
  RESET_OFFSET,
  SLEEP_CONTROL_OFFSET,
  SLEEP_STATUS_OFFSET,
} from "./acpi-power.js"

function makePower() {
  const events: string[] = []
  const power = new AcpiPower({ onPowerOff: () => events.push("off"), onReset: () => events.push("reset") })
  return { power, events }
}

test("powers off when sleep is enabled with the type of S5", () => {
  const { power, events } = makePower()
  power.write(SLEEP_CONTROL_OFFSET, Uint8Array.of(5 << 2)) // type without enable
  expect(events).toEqual([])
  power.write(SLEEP_CONTROL_OFFSET, Uint8Array.of((5 << 2) | 0x20))
  expect(events).toEqual(["off"])
})

test("resets for the reset value only", () => {
  const { power, events } = makePower()
  for (let value = 0; value < 256; value++) power.write(RESET_OFFSET, Uint8Array.of(value))
  expect(events).toEqual(["reset"])
  expect(ACPI_RESET_VALUE).toBe(1)
})

test("other sleep types, registers and widths do nothing", () => {
  const { power, events } = makePower()
  for (let type = 0; type < 8; type++)
    if (type !== 5) power.write(SLEEP_CONTROL_OFFSET, Uint8Array.of((type << 2) | 0x20))
  power.write(SLEEP_STATUS_OFFSET, Uint8Array.of(0x34))
  power.write(SLEEP_CONTROL_OFFSET, new Uint8Array(0))
  expect(events).toEqual([])
})

test("the status never says that the machine has just woken", () => {
  const into = new Uint8Array(3).fill(0xff)
  makePower().power.read(SLEEP_CONTROL_OFFSET, into)
  expect([...into]).toEqual([0, 0, 0])
})
