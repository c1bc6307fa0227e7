/**
 * The virtio memory balloon: memory that a running guest gives back to the host.
 *
 * @see virtio 1.3, section 5.5
 * @packageDocumentation
 */
export * from "./defs.js"
export { BalloonDevice, type BalloonOptions, type StatisticsOptions } from "./device.js"
export { BalloonError, type BalloonErrorCode } from "./errors.js"
export type { BalloonCounters } from "./guest-pages.js"
export type { HintOptions } from "./hinting.js"
export type { BalloonStatistics } from "./statistics.js"
