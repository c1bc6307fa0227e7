import type { BusDevice } from "../bus.js"

/** Ports from 0x60: data, system control port B, …, command and status. */
const DATA_OFFSET = 0
const PORT_B_OFFSET = 1
const COMMAND_OFFSET = 4
/** Number of ports. */
export const I8042_SIZE = 5

/** Status register. @see IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller" */
const STATUS_OUTPUT_FULL_BIT = 0x01
const STATUS_SYSTEM_BIT = 0x04
const STATUS_COMMAND_BIT = 0x08
const STATUS_UNLOCKED_BIT = 0x10

/** Command byte ("CTR"). */
const CTR_KEYBOARD_INTERRUPT_BIT = 0x01
const CTR_SYSTEM_BIT = 0x04
const CTR_KEYBOARD_DISABLED_BIT = 0x10
const CTR_AUX_DISABLED_BIT = 0x20
const CTR_TRANSLATE_BIT = 0x40

const CMD_READ_CTR = 0x20
const CMD_WRITE_CTR = 0x60
const CMD_AUX_TEST = 0xa9
const CMD_SELF_TEST = 0xaa
const CMD_KEYBOARD_TEST = 0xab
const CMD_KEYBOARD_DISABLE = 0xad
const CMD_KEYBOARD_ENABLE = 0xae
const CMD_READ_OUTPUT_PORT = 0xd0
const CMD_WRITE_OUTPUT_PORT = 0xd1
const CMD_KEYBOARD_LOOP = 0xd2
const CMD_AUX_LOOP = 0xd3
const CMD_AUX_WRITE = 0xd4
/** From here on a command pulses those lines of the output port whose bit is 0. */
const CMD_PULSE_FIRST = 0xf0

const SELF_TEST_PASSED = 0x55
const KEYBOARD_TEST_PASSED = 0x00
/** Clock line stuck low: nothing is plugged in. */
const AUX_TEST_FAILED = 0x01
/** Output port: bit 0 is the CPU's reset line, active low; bit 1 the A20 gate. */
const OUTPUT_PORT_RESET_BIT = 0x01
const OUTPUT_PORT_IDLE = 0x03
/** Port B: the refresh and timer bits, so that a loop that waits for either ends. */
const PORT_B_IDLE = 0x30

const KEYBOARD_ACK = 0xfa
const KEYBOARD_ECHO = 0xee
const KEYBOARD_SET_LEDS = 0xed
const KEYBOARD_SCAN_CODE_SET = 0xf0
const KEYBOARD_GET_ID = 0xf2
const KEYBOARD_SET_RATE = 0xf3
const KEYBOARD_RESET = 0xff
const KEYBOARD_ID = [0xab, 0x83] as const
const KEYBOARD_SELF_TEST_PASSED = 0xaa

/** The one set that every PC keyboard starts with. */
const SCAN_CODE_SET_IN_USE = 2

/** Commands of the controller whose next byte of data is a parameter. */
const TAKES_PARAMETER: ReadonlySet<number> = new Set([
  CMD_WRITE_CTR,
  CMD_WRITE_OUTPUT_PORT,
  CMD_KEYBOARD_LOOP,
  CMD_AUX_LOOP,
  CMD_AUX_WRITE,
])
/** Commands of the controller that always get the same answer. */
const CONTROLLER_ANSWERS: Readonly<Record<number, number>> = {
  [CMD_SELF_TEST]: SELF_TEST_PASSED,
  [CMD_KEYBOARD_TEST]: KEYBOARD_TEST_PASSED,
  [CMD_AUX_TEST]: AUX_TEST_FAILED,
  [CMD_READ_OUTPUT_PORT]: OUTPUT_PORT_IDLE,
}
const KEYBOARD_TAKES_PARAMETER: ReadonlySet<number> = new Set([
  KEYBOARD_SET_LEDS,
  KEYBOARD_SET_RATE,
  KEYBOARD_SCAN_CODE_SET,
])
/** Commands of the keyboard that get more than an acknowledgement, or another one. */
const KEYBOARD_ANSWERS: Readonly<Record<number, readonly number[]>> = {
  [KEYBOARD_RESET]: [KEYBOARD_ACK, KEYBOARD_SELF_TEST_PASSED],
  [KEYBOARD_GET_ID]: [KEYBOARD_ACK, ...KEYBOARD_ID],
  [KEYBOARD_ECHO]: [KEYBOARD_ECHO],
}

/** Most answers that wait for the guest; more are dropped, as by the chip. */
const OUTPUT_LIMIT = 16

/** How a keyboard controller is made. */
export interface I8042Options {
  /** The guest pulls the reset line. */
  readonly onReset: () => void
  /** Raises the keyboard's interrupt, as an edge. */
  readonly interrupt?: () => void
}

interface OutputByte {
  readonly value: number
  /** Whether the byte comes from the keyboard and not from the controller. */
  readonly keyboard: boolean
}

/**
 * i8042 keyboard controller with a keyboard on which nobody types and no mouse.
 *
 * It is here for its reset line: `reboot=k` of Linux, which is also the default of a PC. The rest answers a
 * driver's probe at once, since each missing answer would cost the guest's boot half a second.
 *
 * @see IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller"
 *
 * @example
 * ```ts
 * import { I8042, I8042_SIZE } from "@ts-vmm/vmm/superio"
 *
 * ports.insert({ base: 0x60, size: I8042_SIZE }, new I8042({ onReset: () => machine.stop() }))
 * ```
 */
export class I8042 implements BusDevice {
  readonly #options: I8042Options
  #ctr = CTR_KEYBOARD_INTERRUPT_BIT | CTR_SYSTEM_BIT | CTR_AUX_DISABLED_BIT | CTR_TRANSLATE_BIT
  #output: OutputByte[] = []
  /** A command whose parameter the next byte of data is. */
  #command: number | undefined
  #keyboardCommand: number | undefined
  #lastWriteWasCommand = false

  constructor(options: I8042Options) {
    this.#options = options
  }

  read(offset: number, into: Uint8Array): void {
    into.fill(0xff)
    if (into.length === 0) return
    if (offset === DATA_OFFSET) into[0] = this.#readData()
    else if (offset === COMMAND_OFFSET) into[0] = this.#status()
    else if (offset === PORT_B_OFFSET) into[0] = PORT_B_IDLE
  }

  write(offset: number, from: Uint8Array): void {
    const value = from[0]
    if (value === undefined || (offset !== DATA_OFFSET && offset !== COMMAND_OFFSET)) return
    this.#lastWriteWasCommand = offset === COMMAND_OFFSET
    if (offset === COMMAND_OFFSET) this.#controllerCommand(value)
    else this.#writeData(value)
  }

  #status(): number {
    return (
      STATUS_UNLOCKED_BIT |
      (this.#output.length > 0 ? STATUS_OUTPUT_FULL_BIT : 0) |
      (this.#ctr & CTR_SYSTEM_BIT ? STATUS_SYSTEM_BIT : 0) |
      (this.#lastWriteWasCommand ? STATUS_COMMAND_BIT : 0)
    )
  }

  #readData(): number {
    const byte = this.#output.shift()
    if (this.#output[0]?.keyboard) this.#keyboardInterrupt()
    return byte?.value ?? 0
  }

  #controllerCommand(command: number): void {
    this.#command = TAKES_PARAMETER.has(command) ? command : undefined
    if (command === CMD_READ_CTR) this.#answer(this.#ctr)
    else if (command === CMD_KEYBOARD_DISABLE) this.#ctr |= CTR_KEYBOARD_DISABLED_BIT
    else if (command === CMD_KEYBOARD_ENABLE) this.#ctr &= ~CTR_KEYBOARD_DISABLED_BIT
    else if (command === CMD_SELF_TEST) this.#ctr |= CTR_SYSTEM_BIT
    const answer = CONTROLLER_ANSWERS[command]
    if (answer !== undefined) this.#answer(answer)
    if (command >= CMD_PULSE_FIRST && !(command & OUTPUT_PORT_RESET_BIT)) this.#options.onReset()
  }

  #writeData(value: number): void {
    const command = this.#command
    this.#command = undefined
    if (command === undefined) this.#writeKeyboard(value)
    // There is no auxiliary port to enable.
    else if (command === CMD_WRITE_CTR) this.#ctr = value | CTR_AUX_DISABLED_BIT
    else if (command === CMD_KEYBOARD_LOOP) this.#type([value])
    // Comes back without the mark of the auxiliary port, by which a driver sees at once that there is none.
    else if (command === CMD_AUX_LOOP) this.#answer(value)
    else if (command === CMD_WRITE_OUTPUT_PORT && !(value & OUTPUT_PORT_RESET_BIT)) this.#options.onReset()
  }

  /** The keyboard acknowledges everything and remembers nothing. */
  #writeKeyboard(value: number): void {
    this.#ctr &= ~CTR_KEYBOARD_DISABLED_BIT
    const command = this.#keyboardCommand
    this.#keyboardCommand = undefined
    if (command === undefined) {
      if (KEYBOARD_TAKES_PARAMETER.has(value)) this.#keyboardCommand = value
      this.#type(KEYBOARD_ANSWERS[value] ?? [KEYBOARD_ACK])
      return
    }
    const asksForSet = command === KEYBOARD_SCAN_CODE_SET && value === 0
    this.#type(asksForSet ? [KEYBOARD_ACK, SCAN_CODE_SET_IN_USE] : [KEYBOARD_ACK])
  }

  #answer(value: number): void {
    if (this.#output.length < OUTPUT_LIMIT) this.#output.push({ value, keyboard: false })
  }

  #type(values: readonly number[]): void {
    const wasEmpty = this.#output.length === 0
    for (const value of values)
      if (this.#output.length < OUTPUT_LIMIT) this.#output.push({ value, keyboard: true })
    if (wasEmpty) this.#keyboardInterrupt()
  }

  #keyboardInterrupt(): void {
    if (this.#ctr & CTR_KEYBOARD_INTERRUPT_BIT) this.#options.interrupt?.()
  }
}
