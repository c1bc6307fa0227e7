import type { NetPort } from "@ts-vmm/virtio-devices/net"
import { describe, expect, test } from "vitest"
import { FilteredPort } from "./filtered-port.js"

const MAC = "02:00:00:00:00:01"
const ADDRESS = "10.0.2.15"

function makePort() {
  const sent: Uint8Array[] = []
  const under: NetPort = {
    attach: () => undefined,
    send: frame => sent.push(frame) > 0,
    resume: () => undefined,
    close: () => undefined,
  }
  return { sent, port: new FilteredPort(under, { mac: MAC, address: ADDRESS }) }
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

describe("what a guest may send", () => {
  test.each([
    ["a packet of its own", ipv4(ADDRESS, "192.0.2.1"), true],
    ["ARP of its own", arp(MAC, ADDRESS), true],
    ["an ARP probe", arp(MAC, "0.0.0.0"), true],
    ["N6: another's MAC address", ipv4(ADDRESS, "192.0.2.1", "02:00:00:00:00:02"), false],
    ["N6: another's IP address", ipv4("10.0.2.16", "192.0.2.1"), false],
    ["N6: ARP for a neighbour", arp(MAC, "10.0.2.2"), false],
    ["N6: ARP with another's MAC address", arp("02:00:00:00:00:02", ADDRESS), false],
    ["N6: IPv6, router advertisements among it", Buffer.concat([ethernet(0x86dd), Buffer.alloc(60)]), false],
    ["N7: the metadata address", ipv4(ADDRESS, "169.254.169.254"), false],
    ["N7: the host's loopback", ipv4(ADDRESS, "127.0.0.1"), false],
    ["N1: half a header", ipv4(ADDRESS, "192.0.2.1").subarray(0, 30), false],
    ["a VLAN tag", Buffer.concat([ethernet(0x8100), Buffer.alloc(60)]), false],
  ])("%s", (_, frame, isAllowed) => {
    const { sent, port } = makePort()
    expect(port.send(frame)).toBe(true)
    expect(sent).toHaveLength(isAllowed ? 1 : 0)
    expect(port.refused).toBe(isAllowed ? 0 : 1)
  })
})
