/** What went wrong when a disk was opened or assembled. Closed set; switch on it. */
export type BlockErrorCode =
  /** The file cannot be opened; `cause` says why. */
  | "open"
  /** Somebody else holds the image. */
  | "locked"
  /** Neither a regular file nor a block device. */
  | "not-a-disk"
  /** A size that no disk can have. */
  | "size"
  /** A part of a concatenated disk that cannot be used. */
  | "part"
  /** An image that is not of its format, or is damaged. */
  | "format"
  /** An image that needs what is not supported here. */
  | "unsupported"
  /** An image that stands on another file, which nobody has allowed. */
  | "backing"

/** The one error of the block device. A failed guest request never throws; it ends in a status byte. */
export class BlockError extends Error {
  override readonly name = "BlockError"
  readonly code: BlockErrorCode
  /** The number in question: a size in bytes, or a part's index. */
  readonly value?: number

  constructor(code: BlockErrorCode, message: string, fields: { value?: number; cause?: unknown } = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause })
    this.code = code
    if (fields.value !== undefined) this.value = fields.value
  }
}
