import type { DescriptorChain } from "@ts-vmm/virtio-devices"
import { NET_HEADER_SIZE, type NetPort, PACKET_HEAD_SIZE } from "@ts-vmm/virtio-devices/net"
import { describe, expect, test } from "vitest"
import { addressBytes } from "./address.js"
import { FilteredPort } from "./filtered-port.js"

const MAC = "02:00:00:00:00:01"
const ADDRESS = "10.0.2.15"
const ADDRESS6 = "fd74:732d:766d::15"
/** What an interface with MAC gives itself. */
const LINK_LOCAL = "fe80::ff:fe00:1"
const ROUTER = "fe80::1"

function makePort(addresses: readonly string[] = [ADDRESS, ADDRESS6]) {
  const sent: Uint8Array[] = []
  const under: NetPort = {
    attach: () => undefined,
    send: frame => sent.push(frame) > 0,
    resume: () => undefined,
    close: () => undefined,
  }
  return { sent, port: new FilteredPort(under, { mac: MAC, addresses }) }
}

/** On a port that sends packets out of the guest's memory, which begins where the copied head ends. */
function makePacketPort() {
  const sent: { pair: number; length: number; chain: DescriptorChain }[] = []
  const head = new Uint8Array(PACKET_HEAD_SIZE)
  const packets = {
    packetHead: () => head,
    sendPacket: (pair: number, length: number, chain: DescriptorChain) =>
      sent.push({ pair, length, chain }) > 0,
    flushPackets: () => 0,
  }
  const under: NetPort = {
    packets,
    attach: () => undefined,
    send: () => expect.unreachable(),
    resume: () => undefined,
    close: () => undefined,
  }
  const port = new FilteredPort(under, { mac: MAC, addresses: [ADDRESS, ADDRESS6] })
  const send = (frame: Uint8Array, chain = {} as DescriptorChain): number => {
    const length = Math.min(PACKET_HEAD_SIZE, NET_HEADER_SIZE + frame.length)
    port.packets?.packetHead(1, chain)?.set(frame.subarray(0, length - NET_HEADER_SIZE), NET_HEADER_SIZE)
    port.packets?.sendPacket(1, length, chain)
    return length
  }
  return { sent, port, send }
}

const bytesOf = (address: string) => Buffer.from(address.split(".").map(Number))
const ethernet = (type: number, mac = MAC) =>
  Buffer.concat([
    Buffer.alloc(6, 0xff),
    Buffer.from(mac.replaceAll(":", ""), "hex"),
    Buffer.from([type >> 8, type & 0xff]),
  ])
const ipv4 = (source: string, destination: string, mac = MAC) =>
  Buffer.concat([ethernet(0x0800, mac), Buffer.alloc(12), bytesOf(source), bytesOf(destination)])
const arp = (senderMac: string, senderIp: string) =>
  Buffer.concat([
    ethernet(0x0806),
    Buffer.alloc(8),
    Buffer.from(senderMac.replaceAll(":", ""), "hex"),
    bytesOf(senderIp),
    Buffer.alloc(10),
  ])

const ipv6 = (source: string, destination: string, next: number, rest: readonly number[] = []) =>
  Buffer.concat([
    ethernet(0x86dd),
    Buffer.from([0x60, 0, 0, 0, 0, rest.length, next, 255]),
    addressBytes(source),
    addressBytes(destination),
    Buffer.from([...rest, ...new Array(24).fill(0)]),
  ])
/** A message between neighbours about `target`. */
const icmp6 = (source: string, type: number, target: string) =>
  ipv6(source, "ff02::1", 58, [type, 0, 0, 0, 0, 0, 0, 0, ...addressBytes(target)])

describe("what a guest may send", () => {
  test.each([
    ["a packet of its own", ipv4(ADDRESS, "192.0.2.1"), true],
    ["ARP of its own", arp(MAC, ADDRESS), true],
    ["an ARP probe", arp(MAC, "0.0.0.0"), true],
    ["N6: another's MAC address", ipv4(ADDRESS, "192.0.2.1", "02:00:00:00:00:02"), false],
    ["N6: another's IP address", ipv4("10.0.2.16", "192.0.2.1"), false],
    ["N6: ARP for a neighbour", arp(MAC, "10.0.2.2"), false],
    ["N6: ARP with another's MAC address", arp("02:00:00:00:00:02", ADDRESS), false],
    ["IPv6 of its own", ipv6(ADDRESS6, "2001:db8::1", 6), true],
    ["IPv6 of its interface", ipv6(LINK_LOCAL, ROUTER, 17), true],
    ["a probe for its own address", icmp6("::", 135, ADDRESS6), true],
    ["a question for a neighbour", icmp6(ADDRESS6, 135, ROUTER), true],
    ["an answer for its own address", icmp6(LINK_LOCAL, 136, ADDRESS6), true],
    ["a report of the groups that it is in", ipv6("::", "ff02::16", 0, [58, 0, 5, 2, 0, 0, 1, 0, 143]), true],
    ["fragments of UDP", ipv6(ADDRESS6, "2001:db8::1", 44, [17, 0, 0, 1, 0, 0, 0, 1]), true],
    ["N6: another's IPv6 address", ipv6("fd74:732d:766d::16", "2001:db8::1", 6), false],
    ["N6: IPv6 from nobody", ipv6("::", "2001:db8::1", 17), false],
    ["N6: a router advertisement", icmp6(LINK_LOCAL, 134, ROUTER), false],
    ["N6: a redirect", icmp6(LINK_LOCAL, 137, ROUTER), false],
    ["N6: an answer for a neighbour", icmp6(LINK_LOCAL, 136, ROUTER), false],
    ["N6: a probe for a neighbour's address", icmp6("::", 135, ROUTER), false],
    [
      "N6: a router advertisement behind options",
      ipv6(LINK_LOCAL, "ff02::1", 60, [58, 0, 1, 4, 0, 0, 0, 0, 134]),
      false,
    ],
    [
      "N6: a router advertisement in fragments",
      ipv6(LINK_LOCAL, "ff02::1", 44, [58, 0, 0, 1, 0, 0, 0, 1, 134]),
      false,
    ],
    ["N6: options in fragments", ipv6(LINK_LOCAL, "ff02::1", 44, [60, 0, 0, 1, 0, 0, 0, 1]), false],
    ["N6: a routing header", ipv6(ADDRESS6, "2001:db8::1", 43, [6, 0, 0, 0, 0, 0, 0, 0]), false],
    ["N6: headers without end", ipv6(ADDRESS6, "2001:db8::1", 0, new Array(48).fill(0)), false],
    ["N7: a metadata address of IPv6", ipv6(ADDRESS6, "fd00:ec2::254", 6), false],
    ["N7: the host's loopback by IPv6", ipv6(ADDRESS6, "::1", 6), false],
    ["N7: IPv4 in IPv6", ipv6(ADDRESS6, "::ffff:169.254.169.254", 6), false],
    ["N1: half an IPv6 header", ipv6(ADDRESS6, "2001:db8::1", 6).subarray(0, 50), false],
    ["N7: the metadata address", ipv4(ADDRESS, "169.254.169.254"), false],
    ["N7: the host's loopback", ipv4(ADDRESS, "127.0.0.1"), false],
    ["N1: half a header", ipv4(ADDRESS, "192.0.2.1").subarray(0, 30), false],
    ["a VLAN tag", Buffer.concat([ethernet(0x8100), Buffer.alloc(60)]), false],
  ])("%s", (_, frame, isAllowed) => {
    const { sent, port } = makePort()
    expect(port.send(frame)).toBe(true)
    expect(sent).toHaveLength(isAllowed ? 1 : 0)
    expect(port.refused).toBe(isAllowed ? 0 : 1)

    const packets = makePacketPort()
    packets.send(frame)
    expect(packets.sent).toHaveLength(isAllowed ? 1 : 0)
    expect(packets.port.refused).toBe(isAllowed ? 0 : 1)
  })
})

test("what is long in a packet is sent out of the guest's memory", () => {
  const { sent, send } = makePacketPort()
  const chain = {} as DescriptorChain
  send(Buffer.concat([ipv4(ADDRESS, "192.0.2.1"), Buffer.alloc(1000)]), chain)
  expect(sent).toEqual([{ pair: 1, length: PACKET_HEAD_SIZE, chain }])
  expect(sent[0]?.chain).toBe(chain)
})

/** The first number is what follows 192 bytes of options: in the guest's memory. */
test.each([
  ["more options", [60, 23], 1],
  ["a message between neighbours", [58, 23], 1],
  ["the same in the copied head", [58, 0], 0],
])("N4, N6: headers that go on in the guest's memory are none: %s", (_, options, refused) => {
  const { port, send } = makePacketPort()
  const length = 8 + 8 * (options[1] as number)
  const message = [128, ...new Array(7).fill(0)]
  send(ipv6(ADDRESS6, "2001:db8::1", 60, [...options, ...new Array(length - 2).fill(0), ...message]))
  expect(port.refused).toBe(refused)
})

test("a port that only takes frames has no packets", () => {
  expect(makePort().port.packets).toBeUndefined()
})

test("N6: a guest without an address of IPv6 speaks none", () => {
  const { sent, port } = makePort([ADDRESS])
  port.send(ipv6(LINK_LOCAL, ROUTER, 17))
  expect(sent).toEqual([])
})
