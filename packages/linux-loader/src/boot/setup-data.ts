import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { LoaderError } from "../errors.js"
import { SETUP_DATA_END, SETUP_DATA_START } from "../layout.js"
import { alignUp, writeTable } from "../placement.js"

/** arch/x86/include/uapi/asm/setup_data.h */
export const SETUP_RNG_SEED = 9
const HEADER_SIZE = 16
const ALIGNMENT = 8

/** One entry of the list that the zero page points at. */
export interface SetupData {
  /** `SETUP_…` number. */
  readonly type: number
  /** The entry's data. */
  readonly data: Uint8Array
}

/**
 * Random bytes that the kernel credits as entropy, so that its random numbers are ready at boot. The kernel
 * wipes them from guest memory once it took them.
 *
 * @example
 * ```ts
 * writeBootParams(memory, { kernel, cmdline, memoryMap, setupData: [rngSeed(randomBytes(64))] })
 * ```
 */
export function rngSeed(data: Uint8Array): SetupData {
  return { type: SETUP_RNG_SEED, data }
}

/**
 * Writes the chain at `SETUP_DATA_START`. @returns the address of its first entry, 0 without entries
 * @throws LoaderError `table-no-room`, `invalid-argument`
 */
export function writeSetupData(memory: GuestMemory, entries: readonly SetupData[]): GuestAddress {
  const chain = encodeSetupData(entries)
  if (chain.length === 0) return 0
  writeTable(memory, SETUP_DATA_START, SETUP_DATA_END, chain)
  return SETUP_DATA_START
}

/** The chain as it lies at `SETUP_DATA_START`; empty without entries. */
export function encodeSetupData(entries: readonly SetupData[]): Uint8Array {
  const sizes = entries.map(({ data }) => alignUp(HEADER_SIZE + data.length, ALIGNMENT))
  const chain = new Uint8Array(sizes.reduce((sum, size) => sum + size, 0))
  const view = new DataView(chain.buffer)
  let at = 0
  entries.forEach(({ type, data }, i) => {
    if (!(Number.isSafeInteger(type) && type >= 0 && type < 2 ** 32))
      throw new LoaderError("invalid-argument", { need: type }, "setup_data type")
    const next = at + sizes[i]!
    view.setBigUint64(at, i + 1 < entries.length ? BigInt(SETUP_DATA_START + next) : 0n, true)
    view.setUint32(at + 8, type, true)
    view.setUint32(at + 12, data.length, true)
    chain.set(data, at + HEADER_SIZE)
    at = next
  })
  return chain
}
