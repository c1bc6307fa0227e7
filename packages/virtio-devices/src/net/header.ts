import * as defs from "./defs.js"

/** The header of a frame that needs nothing. */
export const NO_HEADER: Readonly<Uint8Array> = new Uint8Array(defs.NET_HEADER_SIZE)

const VLAN_HEADER_SIZE = defs.ETHERNET_HEADER_SIZE + defs.VLAN_TAG_SIZE
const IPPROTO_TCP = 6
const IPPROTO_UDP = 17
const IPV6_HEADER_SIZE = 40
const UDP_HEADER_SIZE = 8
/** More packets out of one frame are an attack on whoever makes them: 65,535 bytes in pieces of 48, Linux's smallest. */
const MAX_SEGMENTS = 1366

/** A transport protocol whose frames are cut up: where its checksum stands, and how long its header is. */
interface Transport {
  readonly protocol: number
  readonly csumOffset: number
  headerLength(frame: Uint8Array, at: number): number
}

const TCP: Transport = {
  protocol: IPPROTO_TCP,
  csumOffset: 16,
  headerLength: (frame, at) => ((frame[at + 12] ?? 0) >> 4) * 4,
}
const UDP: Transport = { protocol: IPPROTO_UDP, csumOffset: 6, headerLength: () => UDP_HEADER_SIZE }
const MIN_TCP_HEADER_SIZE = 20

/** What a type of segmentation is about. */
interface Segmentation {
  readonly feature: bigint
  readonly etherTypes: readonly number[]
  readonly transport: Transport
}

const { ETHERTYPE_IPV4, ETHERTYPE_IPV6 } = defs
const SEGMENTATION: ReadonlyMap<number, Segmentation> = new Map([
  [
    defs.VIRTIO_NET_HDR_GSO_TCPV4,
    { feature: defs.VIRTIO_NET_F_HOST_TSO4, etherTypes: [ETHERTYPE_IPV4], transport: TCP },
  ],
  [
    defs.VIRTIO_NET_HDR_GSO_TCPV6,
    { feature: defs.VIRTIO_NET_F_HOST_TSO6, etherTypes: [ETHERTYPE_IPV6], transport: TCP },
  ],
  [
    defs.VIRTIO_NET_HDR_GSO_UDP_L4,
    { feature: defs.VIRTIO_NET_F_HOST_USO, etherTypes: [ETHERTYPE_IPV4, ETHERTYPE_IPV6], transport: UDP },
  ],
])

/**
 * Checks headers of a guest's frames against what was negotiated and against the frame itself, so that whoever finishes
 * the frame, the host's kernel most of all, gets no number that does not fit.
 *
 * @see virtio 1.3, section 5.1.6.2
 */
export class HeaderCheck {
  readonly #features: bigint
  readonly #checked = new Uint8Array(defs.NET_HEADER_SIZE)

  constructor(features: bigint) {
    this.#features = features
  }

  /**
   * @param frame - or its beginning: what is cut up must have its headers in there
   * @param length - of the whole frame
   * @returns what to pass on with the frame, valid until the next call, made of nothing but checked fields; undefined for a
   * header that is wrong
   */
  check(header: Uint8Array, frame: Uint8Array, length = frame.length): Uint8Array | undefined {
    const flags = header[defs.HEADER.flags] as number
    const gsoType = header[defs.HEADER.gsoType] as number
    if (flags === 0 && gsoType === 0) return NO_HEADER
    if (flags !== defs.VIRTIO_NET_HDR_F_NEEDS_CSUM || !this.#has(defs.VIRTIO_NET_F_CSUM)) return undefined
    const start = u16(header, defs.HEADER.csumStart)
    const offset = u16(header, defs.HEADER.csumOffset)
    if (start < defs.ETHERNET_HEADER_SIZE || start + offset + 2 > length) return undefined
    const into = this.#checked.fill(0)
    if (gsoType !== 0 && !this.#checkSegments(header, frame, length, into)) return undefined
    into[defs.HEADER.flags] = flags
    copyFields(header, into, defs.HEADER.csumStart, defs.HEADER.numBuffers)
    return into
  }

  #has(feature: bigint): boolean {
    return (this.#features & feature) !== 0n
  }

  #checkSegments(header: Uint8Array, frame: Uint8Array, length: number, into: Uint8Array): boolean {
    const gsoType = header[defs.HEADER.gsoType] as number
    const kind = SEGMENTATION.get(gsoType & ~defs.VIRTIO_NET_HDR_GSO_ECN)
    if (!kind || !this.#has(kind.feature)) return false
    const hasEcn = (gsoType & defs.VIRTIO_NET_HDR_GSO_ECN) !== 0
    if (hasEcn && (kind.transport !== TCP || !this.#has(defs.VIRTIO_NET_F_HOST_ECN))) return false
    const gsoSize = u16(header, defs.HEADER.gsoSize)
    const headerLength = headersOf(header, frame, kind)
    if (headerLength === undefined || gsoSize === 0) return false
    if (u16(header, defs.HEADER.headerLength) > length) return false
    if (length - headerLength > gsoSize * MAX_SEGMENTS) return false
    into[defs.HEADER.gsoType] = gsoType
    into[defs.HEADER.headerLength] = headerLength & 0xff
    into[defs.HEADER.headerLength + 1] = headerLength >> 8
    copyFields(header, into, defs.HEADER.gsoSize, defs.HEADER.csumStart)
    return true
  }
}

/** Length of all headers of a frame that is to be cut up; undefined when it is not the packet that its header tells. */
function headersOf(
  header: Uint8Array,
  frame: Uint8Array,
  { transport, etherTypes }: Segmentation,
): number | undefined {
  const start = u16(header, defs.HEADER.csumStart)
  if (u16(header, defs.HEADER.csumOffset) !== transport.csumOffset) return undefined
  const tagged = etherTypeAt(frame, defs.ETHERTYPE_OFFSET) === defs.ETHERTYPE_VLAN
  const ip = tagged ? VLAN_HEADER_SIZE : defs.ETHERNET_HEADER_SIZE
  const etherType = etherTypeAt(frame, ip - 2)
  if (!etherTypes.includes(etherType)) return undefined
  const isThere = etherType === ETHERTYPE_IPV4 ? isIpv4 : isIpv6
  if (!isThere(frame, ip, start, transport.protocol)) return undefined
  const length = transport.headerLength(frame, start)
  if (transport === TCP && length < MIN_TCP_HEADER_SIZE) return undefined
  return start + length <= frame.length ? start + length : undefined
}

/** An IPv4 header at `ip`, whose packet begins at `start`. */
function isIpv4(frame: Uint8Array, ip: number, start: number, protocol: number): boolean {
  const first = frame[ip] ?? 0
  return (
    first >> 4 === 4 && (first & 15) >= 5 && start === ip + (first & 15) * 4 && frame[ip + 9] === protocol
  )
}

/** An IPv6 header at `ip`; with extension headers the packet begins later, and its protocol is not in this header. */
function isIpv6(frame: Uint8Array, ip: number, start: number, protocol: number): boolean {
  if ((frame[ip] ?? 0) >> 4 !== 6) return false
  const first = ip + IPV6_HEADER_SIZE
  return start > first || (start === first && frame[ip + 6] === protocol)
}

function etherTypeAt(frame: Uint8Array, at: number): number {
  return ((frame[at] ?? 0) << 8) | (frame[at + 1] ?? 0)
}

/** A few bytes: a loop beats the views that `set` needs. */
function copyFields(from: Uint8Array, into: Uint8Array, start: number, end: number): void {
  for (let at = start; at < end; at++) into[at] = from[at] as number
}

/** Little endian. */
function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at] as number) | ((bytes[at + 1] as number) << 8)
}

/** Whether the frame that begins at `at` has a VLAN tag. */
export function isTagged(bytes: Uint8Array, at = 0): boolean {
  return etherTypeAt(bytes, at + defs.ETHERTYPE_OFFSET) === defs.ETHERTYPE_VLAN
}
