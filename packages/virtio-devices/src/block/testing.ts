import type { DriverBuffer } from "../testing/driver-queue.js"
import type { MockDriver } from "../testing/mock-driver.js"
import { REQUEST_HEADER_SIZE } from "./defs.js"

/** Queue 0, the one that every block device has. */
export const REQUEST_QUEUE = 0
/** What tests put where the status goes, so that a status that was not written shows. */
export const NO_STATUS = 0xee

/** How a request ended. */
export interface BlockResult {
  readonly status: number
  /** Data that the device wrote. */
  readonly data: Uint8Array
  /** Used length. */
  readonly length: number
}

/** The 16 bytes before the data of every request. */
export function requestHeader(type: number, sector: number | bigint = 0): Uint8Array {
  const view = new DataView(new ArrayBuffer(REQUEST_HEADER_SIZE))
  view.setUint32(0, type, true)
  view.setBigUint64(8, BigInt(sector), true)
  return new Uint8Array(view.buffer)
}

/** One range of DISCARD or WRITE_ZEROES. */
export function rangeSegment(sector: number | bigint, sectors: number, flags = 0): Uint8Array {
  const view = new DataView(new ArrayBuffer(16))
  view.setBigUint64(0, BigInt(sector), true)
  view.setUint32(8, sectors, true)
  view.setUint32(12, flags, true)
  return new Uint8Array(view.buffer)
}

/** A driver of a block device: requests as Linux makes them, or with parts of any kind. */
export class BlockDriver {
  readonly driver: MockDriver
  readonly queue: number

  constructor(driver: MockDriver, queue = REQUEST_QUEUE) {
    this.driver = driver
    this.queue = queue
  }

  /** Sends one request and waits. @param writable sizes of the buffers the device may write before the status */
  async request(
    type: number,
    sector: number | bigint,
    { data = [], writable = [] }: { data?: readonly Uint8Array[]; writable?: readonly number[] } = {},
  ): Promise<BlockResult> {
    const out = writable.map(size => this.driver.writable(size))
    const parts = [requestHeader(type, sector), ...data].map(bytes => this.driver.readable(bytes))
    return this.send(parts, out)
  }

  /** Sends a chain of these parts and a status byte. */
  async send(readable: readonly DriverBuffer[], writable: readonly DriverBuffer[]): Promise<BlockResult> {
    const status = this.driver.writable(1)
    this.driver.memory.write(status.address, Uint8Array.of(NO_STATUS))
    const { length } = await this.driver.send(this.queue, [...readable, ...writable, status])
    const data = new Uint8Array(Buffer.concat(writable.map(buffer => buffer.bytes())))
    return { status: status.bytes()[0]!, data, length }
  }
}
