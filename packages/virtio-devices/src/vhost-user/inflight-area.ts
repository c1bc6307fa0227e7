import { duplicateFd, fdOrigin, Mapping } from "@ts-vmm/native"
import { VHOST_USER_SET_INFLIGHT_FD } from "./defs.js"
import { VhostUserError } from "./errors.js"
import { InflightQueueLog, inflightRegionSize } from "./inflight.js"
import type { InflightArea } from "./message.js"

/** Bounds of what a front end may ask memory for: 64 queues of 32,768 descriptors are 32 MiB. */
const MAX_AREA_SIZE = 64 * 2 ** 20

/** The memory that the in-flight logs of all queues lie in. */
export class InflightMemory {
  readonly #mapping: Mapping
  readonly #area: InflightArea

  private constructor(mapping: Mapping, area: InflightArea) {
    this.#mapping = mapping
    this.#area = area
  }

  /**
   * New, empty memory for a front end to keep (GET_INFLIGHT_FD).
   *
   * @returns the area as it is to be described, and an fd that is the caller's to close
   * @throws VhostUserError `protocol` for a shape out of bounds
   */
  static create(numQueues: number, queueSize: number): { area: InflightArea; fd: number } {
    const size = areaSize(numQueues, queueSize)
    using mapping = Mapping.create({ name: "inflight", size })
    const area = { mmapSize: BigInt(size), mmapOffset: 0n, numQueues, queueSize }
    return { area, fd: duplicateFd(mapping.fd) }
  }

  /**
   * Memory that a front end kept (SET_INFLIGHT_FD). `fd` stays the caller's.
   *
   * @throws VhostUserError `protocol` for a shape or place that cannot be
   */
  static map(area: InflightArea, fd: number): InflightMemory {
    const size = areaSize(area.numQueues, area.queueSize)
    if (area.mmapSize < BigInt(size) || area.mmapSize > BigInt(MAX_AREA_SIZE)) {
      throw shapeError(`in-flight area of ${area.mmapSize} bytes, not ${size}`)
    }
    if (fdOrigin(fd) !== "memory") throw shapeError("in-flight area is not memory")
    try {
      return new InflightMemory(Mapping.map({ fd, offset: Number(area.mmapOffset), size }), area)
    } catch (cause) {
      throw shapeError("in-flight area cannot be mapped", cause)
    }
  }

  /**
   * The log of queue `index`.
   *
   * @throws VhostUserError `protocol` when the area has no such queue, or a smaller one
   */
  queueLog(index: number, queueSize: number): InflightQueueLog {
    if (index >= this.#area.numQueues || queueSize > this.#area.queueSize) {
      throw shapeError(`in-flight area has no queue ${index} of ${queueSize} descriptors`)
    }
    const size = inflightRegionSize(this.#area.queueSize)
    return new InflightQueueLog(
      new Uint8Array(this.#mapping.buffer, index * size, size),
      this.#area.queueSize,
    )
  }

  close(): void {
    this.#mapping.close()
  }
}

function areaSize(numQueues: number, queueSize: number): number {
  const size = numQueues * inflightRegionSize(queueSize)
  if (size === 0 || queueSize === 0 || size > MAX_AREA_SIZE) {
    throw shapeError(`in-flight area of ${numQueues} queues of ${queueSize} descriptors`)
  }
  return size
}

function shapeError(fact: string, cause?: unknown): VhostUserError {
  return new VhostUserError("protocol", fact, { request: VHOST_USER_SET_INFLIGHT_FD, cause })
}
