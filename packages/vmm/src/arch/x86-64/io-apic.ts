import type { IrqRoute, VmFd } from "@ts-vmm/kvm-ioctls"
import type { BusDevice } from "../../bus.js"
import { IOAPIC_PINS } from "./layout.js"

/** Memory-mapped registers. @see Intel 82093AA data sheet, section 3.1 */
const IOREGSEL_OFFSET = 0x00
const IOWIN_OFFSET = 0x10
/** Registers behind the window. @see Intel 82093AA data sheet, section 3.2 */
const IOAPICID = 0x00
const IOAPICVER = 0x01
const IOAPICARB = 0x02
const IOREDTBL = 0x10
const VERSION = 0x11
const ID_SHIFT = 24
const ID_MASK = 0x0f

/** Redirection table entry, low half. */
const VECTOR_MASK = 0xff
const DELIVERY_MODE_SHIFT = 8
const DELIVERY_MODE_MASK = 0x7
const LOGICAL_DESTINATION_SHIFT = 11
const REMOTE_IRR = 1 << 14
const LEVEL_TRIGGERED = 1 << 15
const MASKED = 1 << 16
/** What a guest may write: delivery status and remote IRR are the chip's. */
const WRITABLE_LOW = 0x1_afff
/** High half: destination in bits 31:24. */
const DESTINATION_SHIFT = 24
/** Modes that an I/O APIC may send on, as a bit set: fixed, lowest priority, SMI, NMI, INIT. ExtINT needs a PIC. */
const SENDABLE_MODES = 0b0011_0111

/** @see Intel SDM vol. 3, "Message Signalled Interrupts" */
const MSI_ADDRESS_BASE = 0xfee0_0000
const MSI_DESTINATION_SHIFT = 12
const MSI_LOGICAL_DESTINATION_SHIFT = 2
const MSI_LEVEL_ASSERT = 1 << 14

/** The part of a VM that an I/O APIC in user space needs. */
export type IoApicKvm = Pick<VmFd, "signalMsi" | "setGsiRouting">

interface Pin {
  low: number
  high: number
  /** Whether the input is held active. */
  asserted: boolean
}

interface MsiMessage {
  readonly address_lo: number
  readonly address_hi: number
  readonly data: number
}

/** What happened to an I/O APIC, since it was made. */
export interface IoApicCounters {
  /** Interrupts sent on from here (those of an irqfd never come by). */
  delivered: number
  /** Edges on a masked pin: lost, as in the chip. */
  lost: number
  /** Times the kernel was given new routes. */
  routings: number
}

/**
 * I/O APIC of a split interrupt controller: 24 pins, each a message to a local APIC.
 *
 * An irqfd never comes by here: the routes given to KVM send it straight to the local APIC, and a masked pin
 * has no route. Owns all of the VM's GSI routing.
 *
 * @see Intel 82093AA data sheet; KVM API, "KVM_CAP_SPLIT_IRQCHIP", "KVM_SET_GSI_ROUTING"
 */
export class IoApic implements BusDevice {
  readonly counters: IoApicCounters = { delivered: 0, lost: 0, routings: 0 }
  readonly #vm: IoApicKvm
  readonly #pins: Pin[] = Array.from({ length: IOAPIC_PINS }, () => ({
    low: MASKED,
    high: 0,
    asserted: false,
  }))
  #selected = 0
  #id = 0

  constructor(vm: IoApicKvm) {
    this.#vm = vm
  }

  read(offset: number, into: Uint8Array): void {
    const value =
      offset === IOREGSEL_OFFSET ? this.#selected : offset === IOWIN_OFFSET ? this.#readRegister() : 0
    for (let i = 0; i < into.length; i++) into[i] = i < 4 ? value >>> (8 * i) : 0
  }

  write(offset: number, from: Uint8Array): void {
    let value = 0
    for (let i = 0; i < Math.min(from.length, 4); i++) value |= from[i]! << (8 * i)
    if (offset === IOREGSEL_OFFSET) this.#selected = value & 0xff
    else if (offset === IOWIN_OFFSET) this.#writeRegister(value)
  }

  /**
   * Drives a pin. A rising edge sends an edge-triggered interrupt; a held line keeps sending a level-triggered
   * one, each time after its end of interrupt.
   * @param gsi - 0 to 23; others are ignored
   * @throws KvmError `ioctl`
   */
  setLine(gsi: number, asserted: boolean): void {
    const pin = this.#pins[gsi]
    if (!pin) return
    const rising = asserted && !pin.asserted
    pin.asserted = asserted
    if (pin.low & LEVEL_TRIGGERED) this.#serviceLevel(pin)
    else if (rising && pin.low & MASKED) this.counters.lost++
    else if (rising) this.#deliver(pin)
  }

  /**
   * One edge on a pin.
   * @param gsi - 0 to 23; others are ignored
   * @throws KvmError `ioctl`
   */
  raise(gsi: number): void {
    this.setLine(gsi, true)
    this.setLine(gsi, false)
  }

  /**
   * A CPU has acknowledged a level-triggered vector: sends it again where the line is still held.
   * @throws KvmError `ioctl`
   */
  endOfInterrupt(vector: number): void {
    for (const pin of this.#pins) {
      if ((pin.low & VECTOR_MASK) !== vector || !(pin.low & LEVEL_TRIGGERED)) continue
      pin.low &= ~REMOTE_IRR
      this.#serviceLevel(pin)
    }
  }

  #readRegister(): number {
    switch (this.#selected) {
      case IOAPICID:
      case IOAPICARB:
        return this.#id << ID_SHIFT
      case IOAPICVER:
        return VERSION | ((IOAPIC_PINS - 1) << 16)
    }
    const pin = this.#pins[(this.#selected - IOREDTBL) >> 1]
    if (!pin) return 0
    return this.#selected & 1 ? pin.high : pin.low
  }

  #writeRegister(value: number): void {
    if (this.#selected === IOAPICID) this.#id = (value >>> ID_SHIFT) & ID_MASK
    const pin = this.#pins[(this.#selected - IOREDTBL) >> 1]
    if (!pin) return
    const before = routeKey(pin)
    if (this.#selected & 1) pin.high = value
    else pin.low = (value & WRITABLE_LOW) | (pin.low & REMOTE_IRR)
    // Switching to edge drops the acknowledgement that a level still waited for.
    if (!(pin.low & LEVEL_TRIGGERED)) pin.low &= ~REMOTE_IRR
    if (routeKey(pin) !== before) this.#updateRouting()
    if (pin.low & LEVEL_TRIGGERED) this.#serviceLevel(pin)
  }

  #serviceLevel(pin: Pin): void {
    if (!pin.asserted || pin.low & (MASKED | REMOTE_IRR)) return
    pin.low |= REMOTE_IRR
    this.#deliver(pin)
  }

  #deliver(pin: Pin): void {
    if (!isRouted(pin)) return
    this.counters.delivered++
    this.#vm.signalMsi({ ...message(pin), flags: 0, devid: 0 })
  }

  #updateRouting(): void {
    const routes: IrqRoute[] = []
    this.#pins.forEach((pin, gsi) => {
      if (isRouted(pin)) routes.push({ gsi, msi: message(pin) })
    })
    this.counters.routings++
    this.#vm.setGsiRouting(routes)
  }
}

function deliveryMode(pin: Pin): number {
  return (pin.low >> DELIVERY_MODE_SHIFT) & DELIVERY_MODE_MASK
}

function isRouted(pin: Pin): boolean {
  return !(pin.low & MASKED) && ((SENDABLE_MODES >> deliveryMode(pin)) & 1) === 1
}

/** What a pin's route depends on, as one value; the same for all pins without a route. */
function routeKey(pin: Pin): string {
  return isRouted(pin) ? `${pin.low & ~REMOTE_IRR}/${pin.high >>> DESTINATION_SHIFT}` : ""
}

/** The message that a pin sends: its entry in the format of a message signalled interrupt. */
function message(pin: Pin): MsiMessage {
  const destination = pin.high >>> DESTINATION_SHIFT
  const logical = (pin.low >> LOGICAL_DESTINATION_SHIFT) & 1
  return {
    address_lo:
      (MSI_ADDRESS_BASE |
        (destination << MSI_DESTINATION_SHIFT) |
        (logical << MSI_LOGICAL_DESTINATION_SHIFT)) >>>
      0,
    address_hi: 0,
    data:
      (pin.low & VECTOR_MASK) |
      (deliveryMode(pin) << DELIVERY_MODE_SHIFT) |
      MSI_LEVEL_ASSERT |
      (pin.low & LEVEL_TRIGGERED),
  }
}
