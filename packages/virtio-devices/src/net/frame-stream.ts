/** Before each frame of a byte stream: its length, big endian. @see QEMU documentation, -netdev stream */
export const FRAME_PREFIX_SIZE = 4
/** A longer frame is no frame: the other end cannot be followed any more. */
export const MAX_STREAM_FRAME_SIZE = 65_535 + 14 + 4

/** Options of a `StreamPort` and a `SocketPort`. */
export interface StreamPortOptions {
  /** The other end is gone, or speaks another language. Called at most once, not after `close`. */
  readonly onEnd?: (error: Error | undefined) => void
}

/** What is said of a frame that is too long for one. */
export function frameLengthError(length: number): Error {
  return new Error(`a frame of ${length} bytes: the other end of the network does not speak this protocol`)
}
