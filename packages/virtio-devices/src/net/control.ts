import { hasFeature } from "../features.js"
import type { DescriptorChain } from "../queue/chain.js"
import * as defs from "./defs.js"
import { isUnicast, MAC_SIZE } from "./mac.js"
import type { ReceiveFilter } from "./receive-filter.js"

/** Longest command: MAC tables of about 1,300 addresses. */
const MAX_COMMAND_SIZE = 8192
const COMMAND_HEADER_SIZE = 2
const VLAN_IDS = 4096

/** What commands of the control queue change. */
export interface ControlTarget {
  readonly features: bigint
  readonly filter: ReceiveFilter
  readonly queuePairs: number
  setMac(mac: Uint8Array): void
  announced(): void
  setQueuePairs(count: number): void
  /** Among the guest offloads that were negotiated. */
  setOffloads(features: bigint): void
}

/** True when the command was carried out. */
type Command = (target: ControlTarget, data: Uint8Array, command: number) => boolean

interface CommandClass {
  readonly feature: bigint
  readonly run: Command
}

const CLASSES: ReadonlyMap<number, CommandClass> = new Map([
  [defs.VIRTIO_NET_CTRL_RX, { feature: defs.VIRTIO_NET_F_CTRL_RX, run: setMode }],
  // The tables belong to CTRL_RX, the address has a feature of its own.
  [defs.VIRTIO_NET_CTRL_MAC, { feature: 0n, run: setMacs }],
  [defs.VIRTIO_NET_CTRL_VLAN, { feature: defs.VIRTIO_NET_F_CTRL_VLAN, run: setVlan }],
  [defs.VIRTIO_NET_CTRL_ANNOUNCE, { feature: defs.VIRTIO_NET_F_GUEST_ANNOUNCE, run: acknowledge }],
  [defs.VIRTIO_NET_CTRL_MQ, { feature: defs.VIRTIO_NET_F_MQ, run: setPairs }],
  [defs.VIRTIO_NET_CTRL_GUEST_OFFLOADS, { feature: defs.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, run: setOffloads }],
])

/**
 * Carries out one command and writes its answer.
 *
 * @returns bytes written: 1, or 0 when there is no room for the answer
 * @see virtio 1.3, section 5.1.6.5
 */
export function runCommand(chain: DescriptorChain, target: ControlTarget): number {
  const isDone = chain.writableLength > 0 && isCarriedOut(chain, target)
  return chain.write(0, Uint8Array.of(isDone ? defs.VIRTIO_NET_OK : defs.VIRTIO_NET_ERR))
}

function isCarriedOut(chain: DescriptorChain, target: ControlTarget): boolean {
  const length = chain.readableLength
  if (length < COMMAND_HEADER_SIZE || length > MAX_COMMAND_SIZE) return false
  const bytes = new Uint8Array(length)
  if (chain.read(0, bytes) !== length) return false
  const kind = CLASSES.get(bytes[0] as number)
  if (!kind || !hasFeature(target.features, kind.feature)) return false
  return kind.run(target, bytes.subarray(COMMAND_HEADER_SIZE), bytes[1] as number)
}

function setMode({ filter, features }: ControlTarget, data: Uint8Array, command: number): boolean {
  const isExtra = command > defs.VIRTIO_NET_CTRL_RX_ALLMULTI
  if (command > defs.VIRTIO_NET_CTRL_RX_NOBCAST || data.length !== 1 || (data[0] as number) > 1) return false
  if (isExtra && !hasFeature(features, defs.VIRTIO_NET_F_CTRL_RX_EXTRA)) return false
  filter.setMode(command, data[0] === 1)
  return true
}

function setMacs(target: ControlTarget, data: Uint8Array, command: number): boolean {
  if (command === defs.VIRTIO_NET_CTRL_MAC_ADDR_SET) return setMac(target, data)
  if (command !== defs.VIRTIO_NET_CTRL_MAC_TABLE_SET) return false
  if (!hasFeature(target.features, defs.VIRTIO_NET_F_CTRL_RX)) return false
  const unicast = takeTable(data)
  const multicast = unicast && takeTable(unicast.rest)
  if (!multicast || multicast.rest.length > 0) return false
  target.filter.setTables(unicast.macs, multicast.macs)
  return true
}

function setMac(target: ControlTarget, data: Uint8Array): boolean {
  if (!hasFeature(target.features, defs.VIRTIO_NET_F_CTRL_MAC_ADDR)) return false
  if (data.length !== MAC_SIZE || !isUnicast(data)) return false
  target.setMac(data)
  return true
}

/** struct virtio_net_ctrl_mac: a count, and as many addresses. */
function takeTable(data: Uint8Array): { macs: Uint8Array; rest: Uint8Array } | undefined {
  if (data.length < 4) return undefined
  const end = 4 + viewOf(data).getUint32(0, true) * MAC_SIZE
  return end <= data.length ? { macs: data.subarray(4, end), rest: data.subarray(end) } : undefined
}

function setVlan({ filter }: ControlTarget, data: Uint8Array, command: number): boolean {
  if (command > defs.VIRTIO_NET_CTRL_VLAN_DEL || data.length !== 2) return false
  const id = viewOf(data).getUint16(0, true)
  if (id >= VLAN_IDS) return false
  filter.setVlan(id, command === defs.VIRTIO_NET_CTRL_VLAN_ADD)
  return true
}

function acknowledge(target: ControlTarget, data: Uint8Array, command: number): boolean {
  if (command !== defs.VIRTIO_NET_CTRL_ANNOUNCE_ACK || data.length > 0) return false
  target.announced()
  return true
}

function setPairs(target: ControlTarget, data: Uint8Array, command: number): boolean {
  if (command !== defs.VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || data.length !== 2) return false
  const count = viewOf(data).getUint16(0, true)
  if (count < 1 || count > target.queuePairs) return false
  target.setQueuePairs(count)
  return true
}

function setOffloads(target: ControlTarget, data: Uint8Array, command: number): boolean {
  if (command !== defs.VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || data.length !== 8) return false
  const wanted = viewOf(data).getBigUint64(0, true)
  if (!hasFeature(target.features & defs.GUEST_OFFLOADS, wanted)) return false
  target.setOffloads(wanted)
  return true
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
