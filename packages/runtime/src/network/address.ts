import { isIPv4, isIPv6 } from "node:net"

/** An address with the length of its network's prefix. */
export interface NetworkAddress {
  readonly family: 4 | 6
  readonly address: string
  /** 0 to 32, or 128. */
  readonly prefixLength: number
}

/** `192.0.2.2/24` or `2001:db8::2/64`; undefined for what is none. */
export function parseNetworkAddress(text: string): NetworkAddress | undefined {
  const [, address = "", bits = ""] = /^([^/]+)\/(\d{1,3})$/.exec(text) ?? []
  const family = familyOf(address)
  const prefixLength = Number(bits)
  if (!family || prefixLength < 1 || prefixLength > (family === 4 ? 32 : 128)) return undefined
  return { family, address, prefixLength }
}

/** 0 for what is no address; one with a zone (`fe80::1%eth0`) is none. */
export function familyOf(address: string): 0 | 4 | 6 {
  if (isIPv4(address)) return 4
  return isIPv6(address) && !address.includes("%") ? 6 : 0
}

/** The bytes of an address, in network order: 4 or 16. */
export function addressBytes(address: string): Buffer {
  if (isIPv4(address)) return Buffer.from(address.split(".").map(Number))
  const [head = "", tail] = address.split("::")
  const front = groupsOf(head)
  const back = tail === undefined ? [] : groupsOf(tail)
  const groups = [...front, ...new Array(8 - front.length - back.length).fill(0), ...back]
  return Buffer.from(groups.flatMap(group => [group >> 8, group & 0xff]))
}

/** 16 bits each; the last may be an IPv4 address. */
function groupsOf(text: string): number[] {
  return text
    .split(":")
    .filter(part => part !== "")
    .flatMap(part => {
      if (!part.includes(".")) return [Number.parseInt(part, 16)]
      const [a = 0, b = 0, c = 0, d = 0] = part.split(".").map(Number)
      return [(a << 8) | b, (c << 8) | d]
    })
}

/** The link-local address that an interface gives itself by its MAC address (RFC 4291, appendix A). */
export function linkLocalBytes(mac: Buffer): Buffer {
  const id = [(mac[0] as number) ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]] as number[]
  return Buffer.from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, ...id])
}
