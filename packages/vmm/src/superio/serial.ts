import type { BusDevice } from "../bus.js"
import { VmmError } from "../errors.js"
import * as reg from "./serial-registers.js"

/** How a serial port is made. */
export interface SerialOptions {
  /** Raises the port's interrupt, as an edge. */
  readonly interrupt: () => void
  /** Takes what the guest transmits. The bytes are the sink's to keep. Must not throw. */
  readonly output: (bytes: Uint8Array) => void
  /** The guest has read all input: `enqueue` takes bytes again. */
  readonly onInputSpace?: () => void
  /** Takes each new value of the line status register, for whoever answers reads of it in our place. */
  readonly publishLineStatus?: (value: number) => void
  /** Takes each change of `nativeTransmit`. */
  readonly onNativeTransmitChange?: (on: boolean) => void
}

/** What happened to a serial port, since it was made. */
export interface SerialCounters {
  /** Bytes given to the output. */
  transmitted: number
  /** Bytes of input that the guest read. */
  received: number
  /** Bytes that the guest sent to itself in loopback mode while the receive FIFO was full: dropped. */
  loopbackOverruns: number
  /** Interrupts raised. */
  interrupts: number
}

/** A serial port's registers and input, as plain data. */
export interface SerialState {
  readonly interruptEnable: number
  readonly fifoControl: number
  readonly lineControl: number
  readonly modemControl: number
  readonly modemStatus: number
  readonly scratch: number
  readonly divisor: number
  readonly transmitterEmptyPending: boolean
  readonly input: readonly number[]
}

/**
 * 16550A serial port: a passive object that turns port accesses into output bytes and interrupts.
 *
 * The transmitter is never busy and the receive FIFO holds 16 bytes, so neither side can make the host hold
 * more: a flood from the guest goes to the output as it comes, a flood from the host is refused by
 * {@link Serial.enqueue}. Reading the line status has no side effect (errors on the line do not exist here),
 * so that whoever has the published value may answer for us.
 *
 * @see Texas Instruments TL16C550C data sheet
 *
 * @example
 * ```ts
 * import { Bus } from "@ts-vmm/vmm"
 * import { Serial } from "@ts-vmm/vmm/superio"
 *
 * const serial = new Serial({ interrupt: () => irq4.write(), output: bytes => process.stdout.write(bytes) })
 * new Bus().insert({ base: 0x3f8, size: 8 }, serial)
 * process.stdin.on("data", bytes => serial.enqueue(bytes))
 * ```
 */
export class Serial implements BusDevice {
  readonly counters: SerialCounters = { transmitted: 0, received: 0, loopbackOverruns: 0, interrupts: 0 }
  readonly #options: SerialOptions
  #interruptEnable = 0
  #fifoControl = 0
  #lineControl = reg.DEFAULT_LINE_CONTROL
  #modemControl = 0
  #modemStatus = reg.DEFAULT_MODEM_STATUS
  #scratch = 0
  #divisor = reg.DEFAULT_DIVISOR
  #transmitterEmptyPending = false
  #input: number[] = []
  #inputRefused = false
  #nativeTransmit = true
  #lineStatus = -1

  /** Publishes the first line status and, since transmitting natively is on at reset, that as well. */
  constructor(options: SerialOptions) {
    this.#options = options
    this.#publish()
    options.onNativeTransmitChange?.(this.#nativeTransmit)
  }

  /** Line status register: always ready to transmit. */
  get lineStatus(): number {
    return reg.LSR_TRANSMITTER_EMPTY_BITS | (this.#input.length > 0 ? reg.LSR_DATA_READY_BIT : 0)
  }

  /**
   * Whether a write of the data register only transmits, so that somebody else may collect the bytes and hand
   * them to {@link Serial.transmitted} later: neither the divisor latch nor loopback is on.
   */
  get nativeTransmit(): boolean {
    return this.#nativeTransmit
  }

  read(offset: number, into: Uint8Array): void {
    // Every register is one byte; the rest of a wider access floats.
    into.fill(0xff)
    if (into.length > 0) into[0] = this.#readRegister(offset)
  }

  write(offset: number, from: Uint8Array): void {
    if (from.length > 0) this.#writeRegister(offset, from[0]!)
  }

  /**
   * Takes bytes that a vCPU thread collected while `nativeTransmit` was on: emits them and raises the
   * transmitter-empty interrupt if the guest wants it.
   * @param bytes - in the order the guest wrote them; the output may keep them
   */
  transmitted(bytes: Uint8Array): void {
    if (bytes.length === 0) return
    this.counters.transmitted += bytes.length
    this.#options.output(bytes)
    this.#transmitterEmpty()
  }

  /**
   * Input for the guest.
   * @returns how many of the bytes were taken, 0 to 16; after fewer than offered `onInputSpace` will be called
   */
  enqueue(bytes: Uint8Array): number {
    const room = this.#loopback ? 0 : reg.FIFO_SIZE - this.#input.length
    const taken = Math.min(room, bytes.length)
    if (taken < bytes.length) this.#inputRefused = true
    if (taken > 0) this.#receive(bytes.subarray(0, taken))
    return taken
  }

  /** Registers and input as plain data. */
  state(): SerialState {
    return {
      interruptEnable: this.#interruptEnable,
      fifoControl: this.#fifoControl,
      lineControl: this.#lineControl,
      modemControl: this.#modemControl,
      modemStatus: this.#modemStatus,
      scratch: this.#scratch,
      divisor: this.#divisor,
      transmitterEmptyPending: this.#transmitterEmptyPending,
      input: [...this.#input],
    }
  }

  /**
   * Takes over a saved state and publishes what follows from it.
   * @throws VmmError `state-invalid` for a register that does not fit, or more input than the FIFO holds
   */
  restore(state: SerialState): void {
    checkState(state)
    this.#interruptEnable = state.interruptEnable & reg.IER_MASK
    this.#fifoControl = state.fifoControl
    this.#lineControl = state.lineControl
    this.#modemControl = state.modemControl & reg.MCR_MASK
    this.#modemStatus = state.modemStatus
    this.#scratch = state.scratch
    this.#divisor = state.divisor
    this.#transmitterEmptyPending = state.transmitterEmptyPending
    this.#input = [...state.input]
    this.#publish()
    if (this.#identification() !== reg.IIR_NONE) this.#interrupt()
  }

  get #loopback(): boolean {
    return (this.#modemControl & reg.MCR_LOOP_BIT) !== 0
  }

  get #divisorLatch(): boolean {
    return (this.#lineControl & reg.LCR_DLAB_BIT) !== 0
  }

  #readRegister(offset: number): number {
    switch (offset) {
      case reg.DATA_OFFSET:
        return this.#divisorLatch ? this.#divisor & 0xff : this.#readData()
      case reg.IER_OFFSET:
        return this.#divisorLatch ? this.#divisor >> 8 : this.#interruptEnable
      case reg.IIR_OFFSET:
        return this.#readIdentification()
      case reg.LCR_OFFSET:
        return this.#lineControl
      case reg.MCR_OFFSET:
        return this.#modemControl
      case reg.LSR_OFFSET:
        return this.lineStatus
      case reg.MSR_OFFSET:
        return this.#readModemStatus()
      case reg.SCR_OFFSET:
        return this.#scratch
      default:
        return 0xff
    }
  }

  #writeRegister(offset: number, value: number): void {
    switch (offset) {
      case reg.DATA_OFFSET:
        if (this.#divisorLatch) this.#divisor = (this.#divisor & 0xff00) | value
        else this.#writeData(value)
        return
      case reg.IER_OFFSET:
        if (this.#divisorLatch) this.#divisor = (this.#divisor & 0xff) | (value << 8)
        else this.#writeInterruptEnable(value)
        return
      case reg.IIR_OFFSET:
        this.#writeFifoControl(value)
        return
      case reg.LCR_OFFSET:
        this.#lineControl = value
        this.#publish()
        return
      case reg.MCR_OFFSET:
        this.#writeModemControl(value & reg.MCR_MASK)
        return
      case reg.SCR_OFFSET:
        this.#scratch = value
    }
  }

  #readData(): number {
    const value = this.#input.shift()
    if (value === undefined) return 0
    if (!this.#loopback) this.counters.received++
    this.#publish()
    if (this.#input.length === 0) this.#offerInputSpace()
    return value
  }

  #writeData(value: number): void {
    if (!this.#loopback) {
      this.transmitted(Uint8Array.of(value))
      return
    }
    if (this.#input.length < reg.FIFO_SIZE) this.#receive([value])
    else this.counters.loopbackOverruns++
    this.#transmitterEmpty()
  }

  #receive(bytes: Iterable<number>): void {
    this.#input.push(...bytes)
    this.#publish()
    if (this.#interruptEnable & reg.IER_RDA_BIT) this.#interrupt()
  }

  #transmitterEmpty(): void {
    this.#transmitterEmptyPending = true
    if (this.#interruptEnable & reg.IER_THRE_BIT) this.#interrupt()
  }

  /** Enabling an interrupt whose cause is there raises it at once; drivers test a port by that. */
  #writeInterruptEnable(value: number): void {
    const enabled = value & reg.IER_MASK & ~this.#interruptEnable
    this.#interruptEnable = value & reg.IER_MASK
    if (enabled & reg.IER_THRE_BIT) this.#transmitterEmptyPending = true
    if (enabled && this.#identification() !== reg.IIR_NONE) this.#interrupt()
  }

  #writeFifoControl(value: number): void {
    const toggled = (value ^ this.#fifoControl) & reg.FCR_ENABLE_BIT
    this.#fifoControl = value & reg.FCR_ENABLE_BIT ? value & ~reg.FCR_CLEAR_RECEIVE_BIT : 0
    if (!toggled && !(value & reg.FCR_ENABLE_BIT && value & reg.FCR_CLEAR_RECEIVE_BIT)) return
    this.#input = []
    this.#publish()
    this.#offerInputSpace()
  }

  #writeModemControl(value: number): void {
    const wasLoopback = this.#loopback
    this.#modemControl = value
    const lines = this.#loopback ? loopedLines(value) : reg.DEFAULT_MODEM_STATUS
    const changed = (lines ^ this.#modemStatus) & 0xf0
    // The ring indicator reports only its trailing edge.
    const deltas = (changed >> 4) & (lines & reg.MSR_RI_BIT ? ~reg.MSR_TRAILING_RI_BIT : 0xf)
    this.#modemStatus = lines | (this.#modemStatus & 0x0f) | deltas
    this.#publish()
    if (deltas && this.#interruptEnable & reg.IER_MSI_BIT) this.#interrupt()
    if (wasLoopback && !this.#loopback && this.#input.length === 0) this.#offerInputSpace()
  }

  #readModemStatus(): number {
    const value = this.#modemStatus
    this.#modemStatus &= 0xf0
    return value
  }

  /** Reading the identification takes back the transmitter-empty interrupt, if that is what it names. */
  #readIdentification(): number {
    const identification = this.#identification()
    if (identification === reg.IIR_THRE) this.#transmitterEmptyPending = false
    return identification | (this.#fifoControl & reg.FCR_ENABLE_BIT ? reg.IIR_FIFO_BITS : 0)
  }

  /** The enabled cause of the highest priority. */
  #identification(): number {
    const enabled = this.#interruptEnable
    if (enabled & reg.IER_RDA_BIT && this.#input.length > 0) return this.#receiveCause()
    if (enabled & reg.IER_THRE_BIT && this.#transmitterEmptyPending) return reg.IIR_THRE
    if (enabled & reg.IER_MSI_BIT && this.#modemStatus & 0x0f) return reg.IIR_MODEM_STATUS
    return reg.IIR_NONE
  }

  /** Below the trigger level the line is idle at once, so the character timeout has always passed. */
  #receiveCause(): number {
    if (!(this.#fifoControl & reg.FCR_ENABLE_BIT)) return reg.IIR_RDA
    const trigger = reg.FCR_TRIGGER_LEVELS[(this.#fifoControl >> reg.FCR_TRIGGER_SHIFT) & 3]!
    return this.#input.length >= trigger ? reg.IIR_RDA : reg.IIR_CHARACTER_TIMEOUT
  }

  #interrupt(): void {
    this.counters.interrupts++
    this.#options.interrupt()
  }

  #offerInputSpace(): void {
    if (!this.#inputRefused || this.#loopback) return
    this.#inputRefused = false
    this.#options.onInputSpace?.()
  }

  /** Tells whoever answers in our place what has changed. */
  #publish(): void {
    const lineStatus = this.lineStatus
    if (lineStatus !== this.#lineStatus) this.#options.publishLineStatus?.(lineStatus)
    this.#lineStatus = lineStatus
    const nativeTransmit = !this.#divisorLatch && !this.#loopback
    if (nativeTransmit !== this.#nativeTransmit) {
      this.#nativeTransmit = nativeTransmit
      this.#options.onNativeTransmitChange?.(nativeTransmit)
    }
  }
}

/** Modem lines while each output is wired to an input: RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD. */
function loopedLines(modemControl: number): number {
  return (
    (modemControl & reg.MCR_RTS_BIT ? reg.MSR_CTS_BIT : 0) |
    (modemControl & reg.MCR_DTR_BIT ? reg.MSR_DSR_BIT : 0) |
    (modemControl & reg.MCR_OUT1_BIT ? reg.MSR_RI_BIT : 0) |
    (modemControl & reg.MCR_OUT2_BIT ? reg.MSR_DCD_BIT : 0)
  )
}

function checkState(state: SerialState): void {
  const { interruptEnable, fifoControl, lineControl, modemControl, modemStatus, scratch, divisor, input } =
    state
  const bytes = [interruptEnable, fifoControl, lineControl, modemControl, modemStatus, scratch, ...input]
  const isWithin = (value: number, limit: number): boolean =>
    Number.isInteger(value) && value >= 0 && value <= limit
  if (!bytes.every(byte => isWithin(byte, 0xff)) || !isWithin(divisor, 0xffff))
    throw new VmmError("state-invalid", "a serial register does not fit its width")
  if (input.length > reg.FIFO_SIZE)
    throw new VmmError("state-invalid", `${input.length} bytes of serial input do not fit the FIFO`, {
      length: input.length,
      limit: reg.FIFO_SIZE,
    })
}
