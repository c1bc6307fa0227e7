import { addon, type NativeExitTable } from "./addon.js"

/** Ports (`KVM_EXIT_IO`) or guest physical memory without a slot (`KVM_EXIT_MMIO`). */
export type ExitSpace = "pio" | "mmio"

/**
 * How a read is answered.
 *
 * - `"deliver"`: not here; it becomes an exit
 * - `"ones"`: all bits one, as where no device answers
 * - `"cell"`: the value of the row's cell. At the row's start, not wider than the row and at most 4 bytes (the low
 *   ones of the cell), not repeated (`rep ins`); any other read is delivered.
 */
export type ReadAction = "deliver" | "ones" | "cell"

/**
 * How a write is answered.
 *
 * - `"deliver"`: not here; it becomes an exit
 * - `"drop"`: it has no effect
 * - `"clear-bits"`: bits that are one in the value become zero in the row's cell, atomically. As for `"cell"`, any
 *   other write than one at the row's start is delivered.
 * - `"sink"`: the byte goes to the table's sink, or each of them (`rep outsb`). Wider writes are delivered, and so
 *   are bytes that have no room: a flood makes the guest wait, and loses nothing.
 */
export type WriteAction = "deliver" | "drop" | "clear-bits" | "sink"

/** Addresses that are answered in the same way. */
export interface ExitRow {
  readonly space: ExitSpace
  /** First address. An access belongs to the row that has its first byte. */
  readonly start: number
  /** Address after the last one, at most 2^53 - 1. */
  readonly end: number
  readonly read: ReadAction
  readonly write: WriteAction
  /** Index into {@link ExitTable.cells}, for `"cell"` and `"clear-bits"`. Default 0. */
  readonly cell?: number
}

/** What an {@link ExitTable} is made of. */
export interface ExitTableOptions {
  /** In any order; they must not overlap. At most 4096. */
  readonly rows: readonly ExitRow[]
  /** Number of cells, 1 to 65,536. Default 1. */
  readonly cells?: number
  /** Bytes that the sink has room for, up to 16 MiB. Default 0: every byte is delivered. */
  readonly sinkSize?: number
  /** Receives what went into the sink, in order. The view is the receiver's to keep. */
  readonly onBytes?: (bytes: Uint8Array) => void
}

const SPACES: readonly ExitSpace[] = ["pio", "mmio"]
/** In the order of native code's numbers. */
const READ_ACTIONS: readonly (ReadAction | undefined)[] = ["deliver", "ones", "cell"]
const WRITE_ACTIONS: readonly (WriteAction | undefined)[] = [
  "deliver",
  "drop",
  undefined,
  "clear-bits",
  "sink",
]

/**
 * The exits that the vCPU threads of one machine answer by themselves, in about the time of the exit itself.
 *
 * An address in no row is nobody's: it reads as ones, what is written there is dropped, and {@link unclaimed} counts it.
 *
 * @example
 * ```ts
 * // The transmit register and the line status of a serial port; the other registers are delivered.
 * const table = new ExitTable({
 *   rows: [
 *     { space: "pio", start: 0x3f8, end: 0x3f9, read: "deliver", write: "sink" },
 *     { space: "pio", start: 0x3f9, end: 0x3fd, read: "deliver", write: "deliver" },
 *     { space: "pio", start: 0x3fd, end: 0x3fe, read: "cell", write: "drop", cell: 0 },
 *   ],
 *   sinkSize: 65536,
 *   onBytes: bytes => process.stdout.write(bytes),
 * })
 * Atomics.store(table.cells, 0, 0x60)
 * ```
 */
export class ExitTable {
  /** Values that rows answer with; native memory, so use `Atomics`. */
  readonly cells: Uint32Array
  /** For {@link VcpuLoop}. */
  readonly native: NativeExitTable
  readonly #onBytes: ((bytes: Uint8Array) => void) | undefined
  readonly #taken: Uint8Array

  /** @throws RangeError for rows that overlap, are empty or name no cell, and for sizes beyond the limits */
  constructor(options: ExitTableOptions) {
    const { rows, cells = 1, sinkSize = 0, onBytes } = options
    this.native = new addon.ExitTable(cells, sinkSize)
    this.cells = new Uint32Array(this.native.cells)
    this.#taken = new Uint8Array(Math.min(sinkSize, LARGEST_TAKE))
    this.#onBytes = onBytes
    this.replaceRows(rows)
  }

  /** Accesses to addresses in no row so far. */
  get unclaimed(): number {
    return this.native.unclaimed
  }

  /**
   * Takes other rows in place of all there are (a device came or went).
   *
   * @throws RangeError as the constructor; Error while a vCPU that uses the table is not paused
   */
  replaceRows(rows: readonly ExitRow[]): void {
    const sorted = [...rows].sort((a, b) => spaceNumber(a.space) - spaceNumber(b.space) || a.start - b.start)
    this.native.replaceRows(sorted.flatMap(encodeRow))
  }

  /**
   * Changes how the row that has `address` answers, from the next access on, also while vCPUs run.
   *
   * @throws RangeError if no row has the address
   */
  setActions(space: ExitSpace, address: number, actions: { read?: ReadAction; write?: WriteAction }): void {
    const { read, write } = actions
    const number = spaceNumber(space)
    if (read !== undefined) this.native.setAction(number, address, false, READ_ACTIONS.indexOf(read))
    if (write !== undefined) this.native.setAction(number, address, true, WRITE_ACTIONS.indexOf(write))
  }

  /**
   * Answers the exit in a `kvm_run` page as a vCPU thread would; false if it is to be delivered. For a program that runs its
   * vCPUs itself.
   *
   * @param run - the vCPU's mapping, at least as long as `struct kvm_run`
   */
  answer(run: ArrayBuffer): boolean {
    return this.native.answer(run)
  }

  /**
   * Gives `onBytes` what is in the sink. {@link VcpuLoop} does so when the first byte arrives and before every exit that
   * it delivers, so bytes and exits keep their order.
   */
  flush(): void {
    if (this.#taken.length === 0) return
    for (let count = this.native.take(this.#taken); count > 0; count = this.native.take(this.#taken)) {
      this.#onBytes?.(this.#taken.slice(0, count))
    }
  }
}

/** Bytes moved out of the sink at once. */
const LARGEST_TAKE = 65536

const spaceNumber = (space: ExitSpace): number => SPACES.indexOf(space)

function encodeRow(row: ExitRow): number[] {
  const { space, start, end, read, write, cell = 0 } = row
  return [spaceNumber(space), start, end, READ_ACTIONS.indexOf(read), WRITE_ACTIONS.indexOf(write), cell]
}
