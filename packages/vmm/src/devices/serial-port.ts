import type { ExitRow, ExitTable } from "@ts-vmm/native"
import { COM1_GSI, COM1_PORT } from "../arch/x86-64/layout.js"
import { Serial } from "../superio/serial.js"
import { SERIAL_SIZE } from "../superio/serial-registers.js"
import { IrqLine, type IrqVm } from "./irq-line.js"

/** Bytes of input that may wait for a guest which does not read. */
const MAX_WAITING = 64 * 1024
const TRANSMIT = COM1_PORT
const LINE_STATUS = COM1_PORT + 5

/**
 * The machine's first serial port. vCPU threads collect what the guest transmits and answer its polling of the
 * line status; the rest comes here.
 */
export class SerialPort {
  readonly serial: Serial
  readonly #line: IrqLine
  readonly #input: Uint8Array[] = []
  #waiting = 0

  /** @throws KvmError `ioctl`; SysError `EMFILE` */
  constructor(vm: IrqVm, table: ExitTable, statusCell: number, output: (bytes: Uint8Array) => void) {
    this.#line = new IrqLine(vm, COM1_GSI)
    this.serial = new Serial({
      interrupt: () => this.#line.raise(),
      output,
      onInputSpace: () => this.#feed(),
      publishLineStatus: value => Atomics.store(table.cells, statusCell, value),
      onNativeTransmitChange: on => table.setActions("pio", TRANSMIT, { write: on ? "sink" : "deliver" }),
    })
  }

  /** Where it sits on the port bus. */
  static readonly range = { base: COM1_PORT, size: SERIAL_SIZE }

  /** How vCPU threads answer accesses to the port. */
  static rows(statusCell: number): ExitRow[] {
    const end = COM1_PORT + SERIAL_SIZE
    const delivered = { space: "pio", read: "deliver", write: "deliver" } as const
    return [
      { ...delivered, start: TRANSMIT, end: TRANSMIT + 1, write: "sink" },
      { ...delivered, start: TRANSMIT + 1, end: LINE_STATUS },
      { ...delivered, start: LINE_STATUS, end: LINE_STATUS + 1, read: "cell", cell: statusCell },
      { ...delivered, start: LINE_STATUS + 1, end },
    ]
  }

  /**
   * Input for the guest; what the port has no room for waits here.
   * @returns false when too much waits already, and nothing was taken (C2)
   */
  enqueue(bytes: Uint8Array): boolean {
    if (this.#waiting + bytes.length > MAX_WAITING) return false
    this.#input.push(bytes)
    this.#waiting += bytes.length
    this.#feed()
    return true
  }

  close(): void {
    this.#line.close()
  }

  #feed(): void {
    for (let first = this.#input[0]; first; first = this.#input[0]) {
      const taken = this.serial.enqueue(first)
      this.#waiting -= taken
      if (taken < first.length) {
        this.#input[0] = first.subarray(taken)
        return
      }
      this.#input.shift()
    }
  }
}
