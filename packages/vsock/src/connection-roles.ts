import type { Connection } from "./connection.js"

/** What a connection tells its consumer, as bits, gathered over one turn. */
export const CONNECTION_OPEN = 1
/** `incoming` grew. */
export const CONNECTION_DATA = 2
/** `peerShutdown` grew. */
export const CONNECTION_SHUTDOWN = 4
/** `outgoing` fell empty. */
export const CONNECTION_SENT = 8
/** The state is "closed"; `closeReason` says why. */
export const CONNECTION_CLOSED = 16
/** Closed long ago and never read, what was unread had to make room. */
export const CONNECTION_ABANDONED = 32

/** The host-side end of a connection. Called outside of every queue operation, so it may do as it likes. */
export interface ConnectionConsumer {
  /** Bits of `CONNECTION_*` since the last call. */
  onEvents(events: number): void
}

/** What a connection needs of whoever carries its packets. */
export interface ConnectionCarrier {
  /** `connection.wantsToSend()` became true. */
  sendSoon(connection: Connection): void
  /** `connection.events` became non-zero. */
  notifySoon(connection: Connection): void
  /** Sends an RST; whatever else the connection owed is off. */
  sendReset(connection: Connection): void
  /** The state became "closed"; no packet of the guest finds the connection any more. */
  closed(connection: Connection): void
  /** The state became "closing". */
  closing(connection: Connection): void
  /** A closed connection holds no unread bytes any more. */
  released(connection: Connection): void
}
