/**
 * What a queue can say. Guest faults: `descriptor-index`, `descriptor-address`, `chain-too-long`,
 * `chain-too-large`, `nested-indirect`, `indirect-length`, `indirect-refused`, `indirect-flags`,
 * `readable-after-writable`, `avail-index`, `head-index`, `head-in-flight`, `memory-gone`.
 * Set-up faults: `queue-size`, `ring-alignment`, `ring-address`, `ring-overlap`, `queue-index`.
 * Misuse by a device: `not-in-flight`, `used-length`.
 */
export type QueueErrorCode =
  | "descriptor-index"
  | "descriptor-address"
  | "chain-too-long"
  | "chain-too-large"
  | "nested-indirect"
  | "indirect-length"
  | "indirect-refused"
  | "indirect-flags"
  | "readable-after-writable"
  | "avail-index"
  | "head-index"
  | "head-in-flight"
  | "memory-gone"
  | "queue-size"
  | "queue-index"
  | "ring-alignment"
  | "ring-address"
  | "ring-overlap"
  | "not-in-flight"
  | "used-length"

const MESSAGES: Record<QueueErrorCode, string> = {
  "descriptor-index": "descriptor index is outside its table",
  "descriptor-address": "descriptor points outside guest memory",
  "chain-too-long": "descriptor chain does not end",
  "chain-too-large": "descriptor chain is longer than 2^32 bytes",
  "nested-indirect": "indirect table holds an indirect descriptor",
  "indirect-length": "indirect table length is not a usable multiple of 16",
  "indirect-refused": "indirect descriptor without VIRTIO_F_INDIRECT_DESC",
  "indirect-flags": "indirect descriptor carries VIRTQ_DESC_F_NEXT",
  "readable-after-writable": "device-readable descriptor follows a device-writable one",
  "avail-index": "available index moved by more than the queue size",
  "head-index": "available ring names a descriptor outside the table",
  "head-in-flight": "available ring names a chain that is still in flight",
  "memory-gone": "guest memory was closed",
  "queue-size": "queue size is not usable",
  "queue-index": "no such queue",
  "ring-alignment": "ring address is not aligned",
  "ring-address": "ring lies outside guest memory",
  "ring-overlap": "ring parts overlap",
  "not-in-flight": "chain is not in flight",
  "used-length": "used length is larger than the writable part of the chain",
}

/** Error of a queue, of its set-up, or of its misuse. */
export class QueueError extends Error {
  override readonly name = "QueueError"
  /** What happened; closed set. */
  readonly code: QueueErrorCode
  /** The number that was refused (an index, an address, a length, a size). */
  readonly value: number
  /** The bound it was held against, when there is one. */
  readonly limit: number | undefined

  constructor(code: QueueErrorCode, value: number, limit?: number, options?: ErrorOptions) {
    const bound = limit === undefined ? "" : `, limit 0x${limit.toString(16)}`
    super(`${MESSAGES[code]}: 0x${value.toString(16)}${bound}`, options)
    this.code = code
    this.value = value
    this.limit = limit
  }
}
