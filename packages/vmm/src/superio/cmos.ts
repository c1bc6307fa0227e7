import type { BusDevice } from "../bus.js"

/** Index port, then data port. */
const INDEX_OFFSET = 0
const DATA_OFFSET = 1
/** Number of ports. */
export const CMOS_SIZE = 2

/** Bytes behind the index; bit 7 of the index is the PC's NMI mask. */
const CMOS_BYTES = 128
const INDEX_MASK = 0x7f

/** Clock registers. @see Motorola MC146818A data sheet, "Address Map" */
const SECONDS = 0x00
const MINUTES = 0x02
const HOURS = 0x04
const DAY_OF_WEEK = 0x06
const DAY_OF_MONTH = 0x07
const MONTH = 0x08
const YEAR = 0x09
const REGISTER_A = 0x0a
const REGISTER_B = 0x0b
const REGISTER_C = 0x0c
const REGISTER_D = 0x0d
/** Where ACPI's FADT (`CENTURY`) and every PC have the century. */
const CENTURY = 0x32

/** 32.768 kHz time base, 1024 Hz; "update in progress" (bit 7) is never set: every read is consistent. */
const DEFAULT_REGISTER_A = 0x26
const UPDATE_IN_PROGRESS_BIT = 0x80
/** 24-hour mode, BCD. */
const REGISTER_B_24_HOURS_BIT = 0x02
const REGISTER_B_BINARY_BIT = 0x04
/** The battery is good: RAM and time are valid. */
const REGISTER_D_VALID_BIT = 0x80

/** Memory sizes as a PC's firmware leaves them, low byte first. */
const BASE_MEMORY_KIB = 0x15
const EXTENDED_MEMORY_KIB = 0x17
const EXTENDED_MEMORY_KIB_COPY = 0x30
const MEMORY_ABOVE_16M_64KIB = 0x34
const MEMORY_ABOVE_4G_64KIB = 0x5b
const KIB = 2 ** 10
const MIB = 2 ** 20

/** How a clock is made. */
export interface CmosOptions {
  /** The time that the guest reads, in UTC. Default: the host's. */
  readonly now?: () => Date
  /** RAM below 4 GiB in bytes. */
  readonly lowMemorySize: number
  /** RAM from 4 GiB on in bytes. Default 0. */
  readonly highMemorySize?: number
}

/**
 * Real-time clock and CMOS memory of a PC.
 *
 * The clock is the host's: what a guest writes to it is dropped, and it has no alarm and no interrupt, which
 * a guest has better from its virtual CPUs. The other bytes are memory that only the guest uses.
 *
 * @see Motorola MC146818A data sheet
 *
 * @example
 * ```ts
 * import { Cmos, CMOS_SIZE } from "@ts-vmm/vmm/superio"
 *
 * ports.insert({ base: 0x70, size: CMOS_SIZE }, new Cmos({ lowMemorySize: 128 * 2 ** 20 }))
 * ```
 */
export class Cmos implements BusDevice {
  readonly #now: () => Date
  readonly #bytes = new Uint8Array(CMOS_BYTES)
  #index = 0

  constructor({ now = () => new Date(), lowMemorySize, highMemorySize = 0 }: CmosOptions) {
    this.#now = now
    this.#bytes[REGISTER_A] = DEFAULT_REGISTER_A
    this.#bytes[REGISTER_B] = REGISTER_B_24_HOURS_BIT
    this.#bytes[REGISTER_D] = REGISTER_D_VALID_BIT
    this.#setMemorySizes(lowMemorySize, highMemorySize)
  }

  /** The index port cannot be read. */
  read(offset: number, into: Uint8Array): void {
    into.fill(0xff)
    if (offset === DATA_OFFSET && into.length > 0) into[0] = this.#readByte(this.#index)
  }

  /** A 16-bit write to the index port sets index and data, as two bytes on the bus would. */
  write(offset: number, from: Uint8Array): void {
    for (let i = 0; i < from.length; i++) {
      if (offset + i === INDEX_OFFSET) this.#index = from[i]! & INDEX_MASK
      else if (offset + i === DATA_OFFSET) this.#writeByte(this.#index, from[i]!)
    }
  }

  #readByte(index: number): number {
    const field = CLOCK_FIELDS[index]
    return field ? toBcd(field(this.#now())) : this.#bytes[index]!
  }

  #writeByte(index: number, value: number): void {
    if (index in CLOCK_FIELDS || index === REGISTER_C || index === REGISTER_D) return
    if (index === REGISTER_A) this.#bytes[index] = value & ~UPDATE_IN_PROGRESS_BIT
    else if (index === REGISTER_B)
      this.#bytes[index] = (value & ~REGISTER_B_BINARY_BIT) | REGISTER_B_24_HOURS_BIT
    else this.#bytes[index] = value
  }

  /** Old software takes the memory size from here; each field holds as much as it can. */
  #setMemorySizes(low: number, high: number): void {
    const extendedKib = Math.min(Math.max(low - MIB, 0) / KIB, 0xffff)
    this.#setLittleEndian(BASE_MEMORY_KIB, 640, 2)
    this.#setLittleEndian(EXTENDED_MEMORY_KIB, extendedKib, 2)
    this.#setLittleEndian(EXTENDED_MEMORY_KIB_COPY, extendedKib, 2)
    this.#setLittleEndian(
      MEMORY_ABOVE_16M_64KIB,
      Math.min(Math.max(low - 16 * MIB, 0) / (64 * KIB), 0xffff),
      2,
    )
    this.#setLittleEndian(MEMORY_ABOVE_4G_64KIB, Math.min(high / (64 * KIB), 0xff_ffff), 3)
  }

  #setLittleEndian(index: number, value: number, width: number): void {
    for (let i = 0; i < width; i++) this.#bytes[index + i] = Math.floor(value) >>> (8 * i)
  }
}

/** The clock's registers. */
const CLOCK_FIELDS: Readonly<Record<number, (now: Date) => number>> = {
  [SECONDS]: now => now.getUTCSeconds(),
  [MINUTES]: now => now.getUTCMinutes(),
  [HOURS]: now => now.getUTCHours(),
  [DAY_OF_WEEK]: now => now.getUTCDay() + 1,
  [DAY_OF_MONTH]: now => now.getUTCDate(),
  [MONTH]: now => now.getUTCMonth() + 1,
  [YEAR]: now => now.getUTCFullYear() % 100,
  [CENTURY]: now => Math.floor(now.getUTCFullYear() / 100),
}

function toBcd(value: number): number {
  return (Math.floor(value / 10) << 4) | (value % 10)
}
