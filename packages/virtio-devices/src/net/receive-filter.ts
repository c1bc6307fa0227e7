import * as defs from "./defs.js"
import { isTagged } from "./header.js"
import { isUnicast, MAC_SIZE } from "./mac.js"

/** A driver that wants more addresses than this gets all of their kind. */
const MAX_TABLE = 64
const VLAN_IDS = 4096

/** Addresses that a driver listens to; undefined: too many, so all. */
type MacTable = ReadonlySet<number> | undefined

/**
 * Which frames a driver wants: all of them, until it says otherwise on the control queue.
 *
 * @see virtio 1.3, sections 5.1.6.5.1 to 5.1.6.5.3
 */
export class ReceiveFilter {
  readonly #modes = new Set<number>([defs.VIRTIO_NET_CTRL_RX_PROMISC])
  #own: number
  #unicast: MacTable = new Set()
  #multicast: MacTable = new Set()
  /** Undefined: the driver does not filter by VLAN. */
  readonly #vlans: Uint8Array | undefined

  constructor(mac: Uint8Array, filtersVlans: boolean) {
    this.#own = macNumber(mac, 0)
    this.#vlans = filtersVlans ? new Uint8Array(VLAN_IDS) : undefined
  }

  /** @param mode - a command of `VIRTIO_NET_CTRL_RX` */
  setMode(mode: number, on: boolean): void {
    if (on) this.#modes.add(mode)
    else this.#modes.delete(mode)
  }

  setMac(mac: Uint8Array): void {
    this.#own = macNumber(mac, 0)
  }

  /** Addresses of six bytes, one after the other. */
  setTables(unicast: Uint8Array, multicast: Uint8Array): void {
    this.#unicast = readTable(unicast)
    this.#multicast = readTable(multicast)
  }

  setVlan(id: number, on: boolean): void {
    if (this.#vlans) this.#vlans[id] = Number(on)
  }

  accepts(frame: Uint8Array): boolean {
    if (this.#vlans && isTagged(frame) && this.#vlans[vlanOf(frame)] === 0) return false
    if (this.#modes.has(defs.VIRTIO_NET_CTRL_RX_PROMISC)) return true
    if (isUnicast(frame)) return this.#acceptsUnicast(frame)
    if (isBroadcast(frame)) return !this.#modes.has(defs.VIRTIO_NET_CTRL_RX_NOBCAST)
    if (this.#modes.has(defs.VIRTIO_NET_CTRL_RX_NOMULTI)) return false
    return this.#modes.has(defs.VIRTIO_NET_CTRL_RX_ALLMULTI) || isIn(this.#multicast, frame)
  }

  #acceptsUnicast(frame: Uint8Array): boolean {
    if (this.#modes.has(defs.VIRTIO_NET_CTRL_RX_NOUNI)) return false
    if (this.#modes.has(defs.VIRTIO_NET_CTRL_RX_ALLUNI)) return true
    return macNumber(frame, 0) === this.#own || isIn(this.#unicast, frame)
  }
}

function isIn(table: MacTable, frame: Uint8Array): boolean {
  return table === undefined || table.has(macNumber(frame, 0))
}

function readTable(bytes: Uint8Array): MacTable {
  if (bytes.length > MAX_TABLE * MAC_SIZE) return undefined
  const table = new Set<number>()
  for (let at = 0; at < bytes.length; at += MAC_SIZE) table.add(macNumber(bytes, at))
  return table
}

/** 48 bits as a number. */
function macNumber(bytes: Uint8Array, at: number): number {
  let value = 0
  for (let i = 0; i < MAC_SIZE; i++) value = value * 256 + (bytes[at + i] ?? 0)
  return value
}

function isBroadcast(frame: Uint8Array): boolean {
  return macNumber(frame, 0) === 0xffff_ffff_ffff
}

function vlanOf(frame: Uint8Array): number {
  return (((frame[14] ?? 0) & 15) << 8) | (frame[15] ?? 0)
}
