import type { DescriptorChain } from "../queue/chain.js"
import { REQUEST_SIZE } from "./defs.js"

/** A u64 whose high word is this or more does not fit a number; no region has such an address. */
const HIGH_LIMIT = 2 ** 21

/** `struct virtio_mem_req`, as the driver wrote it. */
export interface MemRequest {
  readonly type: number
  /** Infinity for one that no number holds. */
  readonly addr: number
  readonly blocks: number
}

/** Copies the request of a chain, once; undefined for one that is too short. @see virtio 1.3, section 5.15.6 */
export function readRequest(chain: DescriptorChain): MemRequest | undefined {
  const view = new DataView(new ArrayBuffer(REQUEST_SIZE))
  if (chain.read(0, new Uint8Array(view.buffer)) < REQUEST_SIZE) return undefined
  const high = view.getUint32(12, true)
  return {
    type: view.getUint16(0, true),
    addr: high < HIGH_LIMIT ? high * 2 ** 32 + view.getUint32(8, true) : Number.POSITIVE_INFINITY,
    blocks: view.getUint16(16, true),
  }
}
