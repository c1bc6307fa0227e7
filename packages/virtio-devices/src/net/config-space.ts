import * as defs from "./defs.js"
import { parseMac } from "./mac.js"

/**
 * `struct virtio_net_config` of a card whose link is up (virtio 1.3, 5.1.4).
 *
 * @throws RangeError for what is no address of one machine, or an MTU that cannot be
 */
export function makeNetConfig(mac: string, mtu: number, queuePairs: number): DataView {
  if (!(Number.isInteger(mtu) && mtu >= defs.MIN_MTU && mtu <= defs.MAX_MTU))
    throw new RangeError(`mtu must be an integer from ${defs.MIN_MTU} to ${defs.MAX_MTU}`)
  const config = new DataView(new ArrayBuffer(defs.CONFIG_SIZE))
  new Uint8Array(config.buffer).set(parseMac(mac), defs.CONFIG.mac)
  config.setUint16(defs.CONFIG.status, defs.VIRTIO_NET_S_LINK_UP, true)
  config.setUint16(defs.CONFIG.maxVirtqueuePairs, queuePairs, true)
  config.setUint16(defs.CONFIG.mtu, mtu, true)
  return config
}

/** What a driver reads of it; zeroes past its end. */
export function readNetConfig(config: DataView, offset: number, into: Uint8Array): void {
  into.fill(0)
  into.set(new Uint8Array(config.buffer).subarray(offset).subarray(0, into.length))
}
