import * as defs from "./defs.js"
import { isTagged } from "./header.js"
import { isUnicast, MAC_SIZE } from "./mac.js"

/** A driver that wants more addresses than this gets all of their kind. */
const MAX_TABLE = 64
const VLAN_IDS = 4096
const BROADCAST = 0xffff_ffff_ffff

/** Addresses that a driver listens to; undefined: too many, so all. */
type MacTable = ReadonlySet<number> | undefined

/**
 * Which frames a driver wants: all of them, until it says otherwise on the control queue.
 *
 * @see virtio 1.3, sections 5.1.6.5.1 to 5.1.6.5.3
 */
export class ReceiveFilter {
  readonly #modes = new Set<number>([defs.VIRTIO_NET_CTRL_RX_PROMISC])
  /** What `#modes` says of that: it is asked for every frame. */
  #isPromiscuous = true
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
    this.#isPromiscuous = this.#modes.has(defs.VIRTIO_NET_CTRL_RX_PROMISC)
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

  /** Whether the frame that begins at `at` is wanted. */
  accepts(bytes: Uint8Array, at: number): boolean {
    if (this.#vlans && isTagged(bytes, at) && this.#vlans[vlanOf(bytes, at)] === 0) return false
    if (this.#isPromiscuous) return true
    const target = macNumber(bytes, at)
    if (isUnicast(bytes, at)) return this.#acceptsUnicast(target)
    if (target === BROADCAST) return !this.#modes.has(defs.VIRTIO_NET_CTRL_RX_NOBCAST)
    if (this.#modes.has(defs.VIRTIO_NET_CTRL_RX_NOMULTI)) return false
    return this.#modes.has(defs.VIRTIO_NET_CTRL_RX_ALLMULTI) || isIn(this.#multicast, target)
  }

  #acceptsUnicast(target: number): boolean {
    if (this.#modes.has(defs.VIRTIO_NET_CTRL_RX_NOUNI)) return false
    if (this.#modes.has(defs.VIRTIO_NET_CTRL_RX_ALLUNI)) return true
    return target === this.#own || isIn(this.#unicast, target)
  }
}

function isIn(table: MacTable, target: number): boolean {
  return table === undefined || table.has(target)
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

function vlanOf(bytes: Uint8Array, at: number): number {
  return (((bytes[at + 14] ?? 0) & 15) << 8) | (bytes[at + 15] ?? 0)
}
