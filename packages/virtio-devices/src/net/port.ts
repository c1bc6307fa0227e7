/** Takes a frame; false: there is no room now, and `onRoom` of the sink's owner will say when there is. */
export type FrameSink = (frame: Uint8Array) => boolean

/**
 * The other end of a network device's cable: a user-mode network stack, a bridge, a test. Ethernet frames go both ways,
 * without a frame check sequence; whoever is full says so, and nothing is queued without limit.
 */
export interface NetPort {
  /**
   * Connects the device: frames for the guest go to `deliver`, which is called again with the same frame after
   * {@link resume} when it returned false.
   */
  attach(deliver: FrameSink, onRoom: () => void): void
  /** A frame of the guest, which it may change at once: copy it. False when there is no room: `onRoom` follows. */
  send: FrameSink
  /** The guest has room again. */
  resume(): void
  /** Ends the connection. */
  close(): void
}
