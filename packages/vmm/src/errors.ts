/** Every reason for which this package refuses something. The set is closed: switch over it. */
export type VmmErrorCode =
  /** A bus range is empty, negative, fractional or ends above 2^53. */
  | "range-invalid"
  /** A bus range shares an address with one that is there already. */
  | "range-overlap"
  /** Nothing is at that base, or that address or id was not allocated. */
  | "not-found"
  /** No free range of that size and alignment, or no free id, is left. */
  | "exhausted"
  /** An allocation asks for something that can never be given: size 0, alignment no power of two, outside. */
  | "allocation-invalid"
  /** Guest RAM is smaller or larger than the machine supports, or not whole pages. */
  | "memory-size"
  /** The number of vCPUs, or the index of one, is outside what the machine supports. */
  | "vcpu-count"
  /** KVM lacks a capability that the machine needs; the field `capability` names it. */
  | "capability-missing"
  /** A saved device state does not fit the device. */
  | "state-invalid"
  /** The machine's configuration contradicts itself or names something that is not there. */
  | "config-invalid"
  /** An operation does not fit the state that the machine is in. */
  | "machine-state"
  /** A vCPU left the guest in a way that nothing can answer; the field `reason` has the exit. */
  | "unexpected-exit"

/** Numbers and names that belong to one error; which keys there are depends on the code. */
export type VmmErrorFields = Readonly<Record<string, number | string>>

/**
 * The one error class of this package. Recognise it by `code`; the message is for people.
 *
 * @example
 * ```ts
 * import { Bus, VmmError } from "@ts-vmm/vmm"
 *
 * try {
 *   new Bus().insert({ base: 0x3f8, size: 0 }, device)
 * } catch (error) {
 *   if (error instanceof VmmError && error.code === "range-invalid") console.error(error.fields.base)
 * }
 * ```
 */
export class VmmError extends Error {
  override readonly name = "VmmError"
  /** Why, from a closed set. */
  readonly code: VmmErrorCode
  /** The facts as values: addresses, sizes, limits. */
  readonly fields: VmmErrorFields

  /**
   * @param code - why, from the closed set
   * @param message - lower-case fact without a trailing dot, addresses in hex
   * @param fields - the facts as values
   * @param options - `cause`: the lower error, if there is one
   */
  constructor(code: VmmErrorCode, message: string, fields: VmmErrorFields = {}, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.fields = fields
  }
}
