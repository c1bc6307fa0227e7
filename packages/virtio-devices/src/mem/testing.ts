import { expect } from "vitest"
import type { MockDriver } from "../testing/index.js"
import * as defs from "./defs.js"

/** The bytes of a `struct virtio_mem_req`. */
export function requestBytes(type: number, addr: number | bigint = 0, blocks = 0): Uint8Array {
  const view = new DataView(new ArrayBuffer(defs.REQUEST_SIZE))
  view.setUint16(0, type, true)
  view.setBigUint64(8, BigInt(addr), true)
  view.setUint16(16, blocks, true)
  return new Uint8Array(view.buffer)
}

/** Sends a request. @returns type of the response, and the state in it */
export async function request(
  driver: MockDriver,
  bytes: Uint8Array,
): Promise<{ type: number; state: number }> {
  const response = driver.writable(defs.RESPONSE_SIZE)
  expect((await driver.send(0, [driver.readable(bytes), response])).length).toBe(defs.RESPONSE_SIZE)
  const answer = Buffer.from(response.bytes())
  return { type: answer.readUInt16LE(0), state: answer.readUInt16LE(8) }
}
