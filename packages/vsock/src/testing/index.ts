/**
 * Simulated guests for tests, benchmarks and examples.
 *
 * @packageDocumentation
 */
export { type GuestHandlers, GuestSocket, GuestVsock, type GuestWire } from "./guest.js"
export { RingGuest, type RingGuestOptions } from "./ring-guest.js"
