import { describe, expect, test } from "vitest"
import * as defs from "./defs.js"
import { HeaderCheck, NO_HEADER } from "./header.js"
import { type HeaderFields, ipv4Frame, makeHeader, TRANSPORT_AT } from "./testing.js"

const ALL = defs.HOST_OFFLOADS
const TCP = ipv4Frame(6, [1000, 2000], new Uint8Array(4000))
const UDP = ipv4Frame(17, [1000, 2000], new Uint8Array(4000))
const CSUM: HeaderFields = { flags: 1, csumStart: TRANSPORT_AT, csumOffset: 16 }
const TSO: HeaderFields = { ...CSUM, gsoType: 1, headerLength: 54, gsoSize: 1460 }
const USO: HeaderFields = { ...CSUM, csumOffset: 6, gsoType: 5, headerLength: 42, gsoSize: 1000 }

const check = (fields: HeaderFields, frame = TCP, features = ALL) =>
  new HeaderCheck(features).check(makeHeader(fields), frame)

/** IPv6 and TCP, with the fields that are looked at. */
function ipv6Tcp(nextHeader: number): Uint8Array {
  const frame = new Uint8Array(14 + 40 + 20 + 3000)
  frame.set([0x86, 0xdd, 0x60], 12)
  frame[20] = nextHeader
  frame[66] = 0x50
  return frame
}
const TSO6: HeaderFields = { flags: 1, gsoType: 4, gsoSize: 1000, csumStart: 54, csumOffset: 16 }

/** `frame` with a VLAN tag. */
function tagged(frame: Uint8Array): Uint8Array {
  return Uint8Array.from([...frame.subarray(0, 12), 0x81, 0, 0, 5, ...frame.subarray(12)])
}

describe("a sound header passes", () => {
  test("of a frame that needs nothing, whatever stands in the rest of it", () => {
    expect(check({ headerLength: 0xffff, csumStart: 0xffff })).toBe(NO_HEADER)
  })

  test.each([
    ["a checksum", CSUM, TCP],
    ["TCP over IPv4", TSO, TCP],
    ["TCP with ECN", { ...TSO, gsoType: 0x81 }, TCP],
    ["TCP over IPv6", TSO6, ipv6Tcp(6)],
    ["UDP", USO, UDP],
    ["TCP in a VLAN", { ...TSO, csumStart: TRANSPORT_AT + 4 }, tagged(TCP)],
  ])("%s", (_, fields, frame) => {
    const header = check(fields, frame)
    expect(header?.[0]).toBe(1)
    expect(header?.[1]).toBe(fields.gsoType ?? 0)
    expect(header?.slice(6, 10)).toEqual(makeHeader(fields).slice(6, 10))
  })

  test("and how long the headers are is worked out, not believed", () => {
    const header = check({ ...TSO, headerLength: 1 })
    expect([header?.[2], header?.[3]]).toEqual([54, 0])
  })
})

describe("N2: a header that does not fit its frame is refused", () => {
  test.each<[string, HeaderFields, Uint8Array?, bigint?]>([
    ["a checksum that was not negotiated", CSUM, TCP, 0n],
    ["a flag that drivers do not set", { ...CSUM, flags: 3 }],
    ["a flag that nobody knows", { ...CSUM, flags: 0x81 }],
    ["a checksum that begins in the Ethernet header", { ...CSUM, csumStart: 13 }],
    ["a checksum that begins behind the frame", { ...CSUM, csumStart: TCP.length }],
    ["a checksum field that ends behind the frame", { ...CSUM, csumOffset: TCP.length - TRANSPORT_AT - 1 }],
    ["sums that overflow 16 bits", { ...CSUM, csumStart: 0xffff, csumOffset: 0xffff }],
    ["segmentation without a checksum", { ...TSO, flags: 0 }],
    ["segmentation that was not negotiated", TSO, TCP, defs.VIRTIO_NET_F_CSUM],
    ["ECN that was not negotiated", { ...TSO, gsoType: 0x81 }, TCP, ALL & ~defs.VIRTIO_NET_F_HOST_ECN],
    ["ECN of UDP", { ...USO, gsoType: 0x85 }, UDP],
    ["ECN alone", { ...TSO, gsoType: 0x80 }],
    ["the old UDP fragmentation", { ...USO, gsoType: 3 }, UDP],
    ["a type that nobody knows", { ...TSO, gsoType: 2 }],
    ["segments of nothing", { ...TSO, gsoSize: 0 }],
    ["thousands of tiny segments", { ...TSO, gsoSize: 1 }],
    ["headers longer than the frame", { ...TSO, headerLength: TCP.length + 1 }],
    ["TCP that is UDP", { ...TSO, csumOffset: 16 }, UDP],
    ["UDP that is TCP", { ...USO, csumOffset: 6 }, TCP],
    ["IPv4 that is IPv6", TSO, ipv6Tcp(6)],
    ["IPv6 that is IPv4", { ...TSO, gsoType: 4 }],
    ["IPv6 with another protocol", TSO6, ipv6Tcp(17)],
    ["IPv6 that begins too early", { ...TSO6, csumStart: 50 }, ipv6Tcp(6)],
    ["a checksum field that TCP does not have there", { ...TSO, csumOffset: 6 }],
    ["a packet that begins elsewhere", { ...TSO, csumStart: TRANSPORT_AT + 4 }],
    ["a TCP header that is cut off", TSO, TCP.subarray(0, 52)],
    ["no IP header at all", TSO, TCP.subarray(0, 14)],
  ])("%s", (_, fields, frame = TCP, features = ALL) => {
    expect(check(fields, frame, features)).toBeUndefined()
  })

  test("a TCP header shorter than one can be", () => {
    const frame = TCP.slice()
    frame[TRANSPORT_AT + 12] = 0x40
    expect(check(TSO, frame)).toBeUndefined()
  })
})
