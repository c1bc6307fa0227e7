/** What went through a network device. */
export interface NetCounters {
  framesSent: number
  bytesSent: number
  framesReceived: number
  bytesReceived: number
  /**
   * Frames of the guest that were none (too short, too long, with a header that is wrong or asks for what was not
   * negotiated), and frames for it that its buffers do not hold.
   */
  dropped: number
  /** Frames that the guest does not listen to. */
  filtered: number
}

export function newCounters(): NetCounters {
  return { framesSent: 0, bytesSent: 0, framesReceived: 0, bytesReceived: 0, dropped: 0, filtered: 0 }
}
