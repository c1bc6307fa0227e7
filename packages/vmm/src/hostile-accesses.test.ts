import fc from "fast-check"
import { expect, test } from "vitest"
import { IoApic } from "./arch/x86-64/io-apic.js"
import { Bus } from "./bus.js"
import {
  ACPI_POWER_SIZE,
  AcpiPower,
  CMOS_SIZE,
  Cmos,
  I8042,
  I8042_SIZE,
  SERIAL_SIZE,
  Serial,
} from "./superio/index.js"

const GAP = 0x10
const IOAPIC_WINDOW = 0x20

/** Every passive device on one bus, with gaps between them. */
function makeBus() {
  const sent: number[] = []
  const serial = new Serial({ interrupt: () => undefined, output: bytes => sent.push(bytes.length) })
  const ioapic = new IoApic({ setGsiRouting: () => undefined, signalMsi: () => 1 })
  const nothing = () => undefined
  const devices = [
    { size: SERIAL_SIZE, device: serial },
    { size: I8042_SIZE, device: new I8042({ onReset: nothing, interrupt: nothing }) },
    { size: CMOS_SIZE, device: new Cmos({ lowMemorySize: 64 * 2 ** 20 }) },
    { size: ACPI_POWER_SIZE, device: new AcpiPower({ onPowerOff: nothing, onReset: nothing }) },
    { size: IOAPIC_WINDOW, device: ioapic },
  ]
  const bus = new Bus()
  let end = GAP
  for (const { size, device } of devices) {
    bus.insert({ base: end, size }, device)
    end += size + GAP
  }
  return { bus, serial, ioapic, end }
}

const { end } = makeBus()
const access = fc.record({
  address: fc.integer({ min: 0, max: end }),
  value: fc.uint8Array({ minLength: 0, maxLength: 8 }),
  isWrite: fc.boolean(),
})

test("T5: no sequence of accesses to any device throws, waits or makes it hold more", () => {
  fc.assert(
    fc.property(fc.array(access, { maxLength: 400 }), fc.array(fc.nat(255)), (accesses, vectors) => {
      const { bus, serial, ioapic } = makeBus()
      for (const { address, value, isWrite } of accesses) {
        if (isWrite) expect(bus.write(address, value)).toBeUndefined()
        else bus.read(address, value)
        serial.enqueue(value)
        ioapic.raise(address)
        ioapic.endOfInterrupt(vectors[address % (vectors.length || 1)] ?? 0)
      }
      expect(serial.state().input.length).toBeLessThanOrEqual(16)
    }),
    { numRuns: 60 },
  )
})

test("T5: a serial port that any sequence of accesses has gone through can be saved and restored", () => {
  fc.assert(
    fc.property(fc.array(access, { maxLength: 100 }), accesses => {
      const { bus, serial } = makeBus()
      for (const { address, value } of accesses)
        bus.write(GAP + (address % SERIAL_SIZE), value.subarray(0, 1))
      const copy = makeBus().serial
      copy.restore(JSON.parse(JSON.stringify(serial.state())))
      expect(copy.state()).toEqual(serial.state())
      expect([copy.lineStatus, copy.nativeTransmit]).toEqual([serial.lineStatus, serial.nativeTransmit])
    }),
    { numRuns: 60 },
  )
})
