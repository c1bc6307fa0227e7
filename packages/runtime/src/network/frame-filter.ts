import { addressBytes, linkLocalBytes } from "./address.js"

/** What a guest was given. */
export interface GuestIdentity {
  /** As `02:00:00:00:00:01`. */
  readonly mac: string
  /** IPv4 and IPv6 addresses. */
  readonly addresses: readonly string[]
}

const ETHERNET_HEADER_SIZE = 14
const ETHERTYPE_IPV4 = 0x0800
const ETHERTYPE_ARP = 0x0806
const ETHERTYPE_IPV6 = 0x86dd
const IPV4_HEADER_SIZE = 20
const ARP_SIZE = 28
/** Where the sender's address stands in an ARP packet, and where IPv4 has source and destination. */
const ARP_SENDER_MAC = ETHERNET_HEADER_SIZE + 8
const ARP_SENDER_IP = ETHERNET_HEADER_SIZE + 14
const IPV4_SOURCE = ETHERNET_HEADER_SIZE + 12
const IPV4_DESTINATION = ETHERNET_HEADER_SIZE + 16

const IPV6_HEADER_SIZE = 40
const IPV6_NEXT_HEADER = ETHERNET_HEADER_SIZE + 6
const IPV6_SOURCE = ETHERNET_HEADER_SIZE + 8
const IPV6_DESTINATION = ETHERNET_HEADER_SIZE + 24
const IPV6_ADDRESS_SIZE = 16
const [HOP_BY_HOP, ROUTING, FRAGMENT, ICMPV6, DESTINATION_OPTIONS] = [0, 43, 44, 58, 60]
const MAX_EXTENSIONS = 4
/** Neighbour solicitation and advertisement, and what only routers say (RFC 4861). */
const [ROUTER_ADVERTISEMENT, SOLICITATION, ADVERTISEMENT, REDIRECT] = [134, 135, 136, 137]
const NEIGHBOUR_TARGET = 8
/** `::`, a probe for an address in use; `::1`; IPv4 in IPv6; where one cloud answers with credentials. */
const UNSPECIFIED = Buffer.alloc(IPV6_ADDRESS_SIZE)
const LOOPBACK = addressBytes("::1")
const MAPPED_PREFIX = addressBytes("::ffff:0:0").subarray(0, 12)
const METADATA = addressBytes("fd00:ec2::254")

/**
 * Which of a guest's frames may leave: IPv4, IPv6 and their protocols for finding neighbours, from the addresses that it
 * was given, and not to link-local addresses of IPv4 and others where clouds answer with credentials, nor to loopback.
 * Nor may it play the router of its network.
 */
export class FrameFilter {
  readonly #mac: Buffer
  readonly #addresses4: readonly Buffer[]
  readonly #addresses6: readonly Buffer[]

  constructor({ mac, addresses }: GuestIdentity) {
    this.#mac = Buffer.from(mac.replaceAll(":", ""), "hex")
    const own = addresses.map(addressBytes)
    this.#addresses4 = own.filter(({ length }) => length === 4)
    const own6 = own.filter(({ length }) => length === IPV6_ADDRESS_SIZE)
    // Without an address of its own a guest speaks no IPv6 at all.
    this.#addresses6 = own6.length > 0 ? [...own6, linkLocalBytes(this.#mac)] : []
  }

  allows(frame: Buffer): boolean {
    if (!has(frame, 6, this.#mac)) return false
    const type = frame.length < ETHERNET_HEADER_SIZE ? 0 : frame.readUInt16BE(12)
    if (type === ETHERTYPE_ARP) return this.#isOwnArp(frame)
    if (type === ETHERTYPE_IPV6) return this.#isOwnPacket6(frame)
    return type === ETHERTYPE_IPV4 && this.#isOwnPacket4(frame)
  }

  /** A probe for an address in use has no sender's address yet. */
  #isOwnArp(frame: Buffer): boolean {
    if (frame.length < ETHERNET_HEADER_SIZE + ARP_SIZE || !has(frame, ARP_SENDER_MAC, this.#mac)) return false
    return hasOneOf(frame, ARP_SENDER_IP, this.#addresses4) || frame.readUInt32BE(ARP_SENDER_IP) === 0
  }

  #isOwnPacket4(frame: Buffer): boolean {
    if (frame.length < ETHERNET_HEADER_SIZE + IPV4_HEADER_SIZE) return false
    const [first, second] = [frame[IPV4_DESTINATION], frame[IPV4_DESTINATION + 1]]
    const isForbidden = first === 127 || (first === 169 && second === 254)
    return !isForbidden && hasOneOf(frame, IPV4_SOURCE, this.#addresses4)
  }

  #isOwnPacket6(frame: Buffer): boolean {
    if (frame.length < ETHERNET_HEADER_SIZE + IPV6_HEADER_SIZE || this.#addresses6.length === 0) return false
    if (isForbidden6(frame)) return false
    const isOwn = hasOneOf(frame, IPV6_SOURCE, this.#addresses6)
    if (!isOwn && !has(frame, IPV6_SOURCE, UNSPECIFIED)) return false
    const at = transportOf(frame)
    if (at === undefined) return false
    // From `::` come probes and multicast reports only.
    return at.protocol === ICMPV6 ? this.#isOwnIcmp6(frame, at.offset) : isOwn
  }

  #isOwnIcmp6(frame: Buffer, at: number): boolean {
    const type = frame[at]
    if (type === undefined || type === ROUTER_ADVERTISEMENT || type === REDIRECT) return false
    if (type === ADVERTISEMENT) return hasOneOf(frame, at + NEIGHBOUR_TARGET, this.#addresses6)
    const isProbe = type === SOLICITATION && has(frame, IPV6_SOURCE, UNSPECIFIED)
    return !isProbe || hasOneOf(frame, at + NEIGHBOUR_TARGET, this.#addresses6)
  }
}

function isForbidden6(frame: Buffer): boolean {
  return (
    has(frame, IPV6_DESTINATION, LOOPBACK) ||
    has(frame, IPV6_DESTINATION, MAPPED_PREFIX) ||
    has(frame, IPV6_DESTINATION, METADATA)
  )
}

/**
 * What is behind the extension headers; undefined where that cannot be told, and where a message to neighbours could
 * hide: in fragments (RFC 6980), behind a routing header or more headers than a host sends.
 */
function transportOf(frame: Buffer): { protocol: number; offset: number } | undefined {
  let protocol = frame[IPV6_NEXT_HEADER] as number
  let offset = ETHERNET_HEADER_SIZE + IPV6_HEADER_SIZE
  for (let count = 0; count <= MAX_EXTENSIONS; count++) {
    if (protocol === FRAGMENT) {
      const inside = frame[offset]
      const isPlain = inside !== undefined && !isExtension(inside) && inside !== ICMPV6
      return isPlain ? { protocol: inside, offset: offset + 8 } : undefined
    }
    if (!isExtension(protocol)) return { protocol, offset }
    if (protocol === ROUTING || offset + 8 > frame.length) return undefined
    protocol = frame[offset] as number
    offset += 8 + 8 * (frame[offset + 1] as number)
  }
  return undefined
}

function isExtension(protocol: number): boolean {
  return [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS].includes(protocol)
}

function hasOneOf(frame: Buffer, at: number, addresses: readonly Buffer[]): boolean {
  return addresses.some(address => has(frame, at, address))
}

function has(frame: Buffer, at: number, bytes: Buffer): boolean {
  return frame.length >= at + bytes.length && bytes.compare(frame, at, at + bytes.length) === 0
}
