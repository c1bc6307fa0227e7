import type { FrameSink, NetPort } from "@ts-vmm/virtio-devices/net"

const ETHERNET_HEADER_SIZE = 14
const ETHERTYPE_IPV4 = 0x0800
const ETHERTYPE_ARP = 0x0806
const IPV4_HEADER_SIZE = 20
const ARP_SIZE = 28
/** Where the sender's address stands in an ARP packet, and where IPv4 has source and destination. */
const ARP_SENDER_MAC = ETHERNET_HEADER_SIZE + 8
const ARP_SENDER_IP = ETHERNET_HEADER_SIZE + 14
const IPV4_SOURCE = ETHERNET_HEADER_SIZE + 12
const IPV4_DESTINATION = ETHERNET_HEADER_SIZE + 16

/**
 * Lets of a guest's frames through what it may send: IPv4 and ARP, from the addresses that it was given, and not to
 * link-local addresses, where clouds answer with credentials, nor to the host's loopback.
 */
export class FilteredPort implements NetPort {
  /** Frames that were not let through. */
  refused = 0
  readonly #port: NetPort
  readonly #mac: Buffer
  readonly #address: Buffer

  /** @param guest - its MAC address, as `02:00:00:00:00:01`, and its IPv4 address */
  constructor(port: NetPort, guest: { readonly mac: string; readonly address: string }) {
    this.#port = port
    this.#mac = Buffer.from(guest.mac.replaceAll(":", ""), "hex")
    this.#address = Buffer.from(guest.address.split(".").map(Number))
  }

  attach(deliver: FrameSink, onRoom: () => void): void {
    this.#port.attach(deliver, onRoom)
  }

  send(frame: Uint8Array): boolean {
    if (this.#isAllowed(Buffer.from(frame.buffer, frame.byteOffset, frame.length)))
      return this.#port.send(frame)
    this.refused++
    return true
  }

  resume(): void {
    this.#port.resume()
  }

  close(): void {
    this.#port.close()
  }

  #isAllowed(frame: Buffer): boolean {
    if (!has(frame, 6, this.#mac)) return false
    const type = frame.readUInt16BE(12)
    if (type === ETHERTYPE_ARP) return this.#isOwnArp(frame)
    return type === ETHERTYPE_IPV4 && this.#isOwnPacket(frame)
  }

  /** A probe for an address in use has no sender's address yet. */
  #isOwnArp(frame: Buffer): boolean {
    if (frame.length < ETHERNET_HEADER_SIZE + ARP_SIZE || !has(frame, ARP_SENDER_MAC, this.#mac)) return false
    return has(frame, ARP_SENDER_IP, this.#address) || frame.readUInt32BE(ARP_SENDER_IP) === 0
  }

  #isOwnPacket(frame: Buffer): boolean {
    if (frame.length < ETHERNET_HEADER_SIZE + IPV4_HEADER_SIZE) return false
    const [first, second] = [frame[IPV4_DESTINATION], frame[IPV4_DESTINATION + 1]]
    const isForbidden = first === 127 || (first === 169 && second === 254)
    return !isForbidden && has(frame, IPV4_SOURCE, this.#address)
  }
}

function has(frame: Buffer, at: number, bytes: Buffer): boolean {
  return frame.length >= at + bytes.length && bytes.compare(frame, at, at + bytes.length) === 0
}
