import type { InflightArea, LogArea, VringAddr, WireRegion } from "./message.js"

/** What of a session's requests is done at once, or once it settles. */
export type Done = void | Promise<void>

/**
 * What a session asks for its rings and the memory that they lie in, request by request, in the order in which they came.
 * Fds of memory stay the caller's; those of rings go with the call, also when it fails.
 *
 * @throws VhostUserError, or rejects with one: `protocol`, `refused`, `memory-region`
 */
export interface SessionRings {
  /** The device is in DEVICE_NEEDS_RESET. */
  readonly failed: boolean
  /** Features as negotiated. */
  setFeatures(features: bigint): Promise<void>
  /** Maps all of guest memory anew. */
  mapTable(regions: readonly WireRegion[], fds: readonly number[]): Promise<void>
  addRegion(region: WireRegion, fd: number): Promise<void>
  removeRegion(region: WireRegion): Promise<void>
  setSize(index: number, size: number): Done
  setBase(index: number, base: number): Done
  setAddress(addr: VringAddr): Done
  /** @param fd -1: the ring is polled */
  setKick(index: number, fd: number): Done
  /** @param fd -1: no interrupts */
  setCall(index: number, fd: number): Done
  /** @param fd -1: none */
  setErr(index: number, fd: number): Done
  setEnabled(index: number, on: number): Promise<void>
  /** Stops a ring with nothing of it in flight. @returns its base */
  stop(index: number): Promise<number>
  setInflight(area: InflightArea, fd: number): Done
  setLog(area: LogArea, fd: number): Done
  /** Back to how the front end found it, memory apart. */
  reset(): Promise<void>
  /** At once, without waiting for what is in flight: the front end is gone. Idempotent. */
  close(): void
}
