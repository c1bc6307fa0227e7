import { isIPv4, isIPv6 } from "node:net"

/** An address with the length of its network's prefix. */
export interface Cidr {
  readonly family: 4 | 6
  readonly address: string
  /** 0 to 32, or 128. */
  readonly prefixLength: number
}

/** `192.0.2.2/24` or `2001:db8::2/64`; undefined for what is none. */
export function parseCidr(value: unknown): Cidr | undefined {
  if (typeof value !== "string" || value.length > 64) return undefined
  const [, address = "", bits = ""] = /^([^/]+)\/(\d{1,3})$/.exec(value) ?? []
  const family = familyOf(address)
  const prefixLength = Number(bits)
  if (!family || prefixLength > (family === 4 ? 32 : 128)) return undefined
  return { family, address, prefixLength }
}

/** 0 for what is no address; one with a zone (`fe80::1%eth0`) is none. */
export function familyOf(address: string): 0 | 4 | 6 {
  if (isIPv4(address)) return 4
  return isIPv6(address) && !address.includes("%") ? 6 : 0
}

export function isAddress(value: unknown): value is string {
  return typeof value === "string" && familyOf(value) !== 0
}

/** 48 bits, as Ethernet has them. */
export function isMac(value: unknown): value is string {
  return typeof value === "string" && /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(value)
}
