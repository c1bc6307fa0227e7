/** Counters of one vsock device since it was made; they only rise. */
export class VsockStats {
  packetsFromGuest = 0
  packetsToGuest = 0
  bytesFromGuest = 0
  bytesToGuest = 0
  /** Connections of the guest that reached a listener. */
  accepted = 0
  /** Packets that were answered by an RST (or would be, were they not one): no listener, no connection. */
  refused = 0
  /** RSTs sent. */
  resetsSent = 0
  /** Packets from a wrong source address. */
  dropped = 0
  /** Packets whose length does not fit their kind or their buffer, and buffers too small for any packet. */
  malformed = 0
}
