import { describe, expect, test } from "vitest"
import * as defs from "./defs.js"
import type { VhostUserError } from "./errors.js"
import * as message from "./message.js"

const header = (request: number, size: number, flags = defs.VHOST_USER_VERSION) => ({ request, flags, size })
const codeOf = (action: () => unknown) => {
  try {
    action()
  } catch (error) {
    return (error as VhostUserError).code
  }
  return undefined
}

describe("vhost-user message codec", () => {
  test("a message is request, flags and size as u32, then the payload", () => {
    const bytes = message.encodeMessage(
      defs.VHOST_USER_SET_FEATURES,
      defs.VHOST_USER_NEED_REPLY_MASK,
      message.encodeU64(5n),
    )
    expect([...bytes]).toEqual([2, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0])
    expect(message.decodeHeader(bytes)).toEqual({ request: 2, flags: 9, size: 8 })
  })

  test("payloads survive a round trip", () => {
    const state = { index: 3, num: 256 }
    expect(message.decodeVringState(message.encodeVringState(state))).toEqual(state)
    const addr = { index: 1, flags: 1, desc: 1n << 63n, used: 2n, avail: 3n, log: 4n }
    expect(message.decodeVringAddr(message.encodeVringAddr(addr))).toEqual(addr)
    const region = { guestAddress: 1n, size: 2n, userAddress: 3n, mmapOffset: 4n }
    expect(message.decodeMemoryTable(message.encodeMemoryTable([region, region]))).toEqual([region, region])
    expect(message.decodeMemoryRegion(message.encodeMemoryRegion(region))).toEqual(region)
    const config = { offset: 8, flags: 1, data: Uint8Array.of(1, 2, 3) }
    expect(message.decodeConfig(message.encodeConfig(config))).toEqual(config)
    const area = { mmapSize: 4096n, mmapOffset: 8192n, numQueues: 2, queueSize: 128 }
    expect(message.decodeInflight(message.encodeInflight(area))).toEqual(area)
    const log = { size: 64n, offset: 4096n }
    expect(message.decodeLogArea(message.encodeLogArea(log))).toEqual(log)
  })

  test("H1: a header with a wrong version, reply flag or reserved flag is refused", () => {
    for (const flags of [0, 2, 3, defs.VHOST_USER_VERSION | defs.VHOST_USER_REPLY_MASK, 0x11, 0x8000_0001]) {
      expect(codeOf(() => message.checkRequest(header(defs.VHOST_USER_GET_FEATURES, 0, flags)))).toBe(
        "protocol",
      )
    }
  })

  test("H1: an unknown request is refused before its payload is read", () => {
    for (const request of [0, 19, 26, 33, 41, 0xffff_ffff]) {
      expect(codeOf(() => message.checkRequest(header(request, 0)))).toBe("protocol")
    }
  })

  test("H1: a size that the request cannot have is refused", () => {
    const wrong: [number, number][] = [
      [defs.VHOST_USER_GET_FEATURES, 8],
      [defs.VHOST_USER_SET_FEATURES, 0],
      [defs.VHOST_USER_SET_FEATURES, 9],
      [defs.VHOST_USER_SET_VRING_ADDR, 39],
      [defs.VHOST_USER_SET_MEM_TABLE, 8],
      [defs.VHOST_USER_SET_MEM_TABLE, 8 + 9 * 32],
      [defs.VHOST_USER_GET_CONFIG, 4096 + 13],
      [defs.VHOST_USER_GET_CONFIG, 0xffff_ffff],
    ]
    for (const [request, size] of wrong) {
      expect(codeOf(() => message.checkRequest(header(request, size)))).toBe("protocol")
    }
  })

  test("H3: a memory table of no region, nine, or more than its payload holds is refused", () => {
    const region = { guestAddress: 0n, size: 4096n, userAddress: 0n, mmapOffset: 0n }
    const table = message.encodeMemoryTable([region])
    for (const count of [0, 2, 9, 0xffff_ffff]) {
      new DataView(table.buffer).setUint32(0, count, true)
      expect(codeOf(() => message.decodeMemoryTable(table))).toBe("protocol")
    }
  })

  test("H10: a configuration access that disagrees with its payload or ends past 4096 is refused", () => {
    const access = message.encodeConfig({ offset: 0, flags: 0, data: new Uint8Array(16) })
    const view = new DataView(access.buffer)
    for (const [offset, size] of [
      [0, 15],
      [0, 0xffff_ffff],
      [4081, 16],
      [0xffff_fff8, 16],
    ] as const) {
      view.setUint32(0, offset, true)
      view.setUint32(4, size, true)
      expect(codeOf(() => message.decodeConfig(access))).toBe("protocol")
    }
  })

  test("an answer must be the one asked for", () => {
    const reply = defs.VHOST_USER_VERSION | defs.VHOST_USER_REPLY_MASK
    expect(() => message.checkReply(header(1, 8, reply), 1, 8)).not.toThrow()
    expect(codeOf(() => message.checkReply(header(2, 8, reply), 1, 8))).toBe("protocol")
    expect(codeOf(() => message.checkReply(header(1, 9, reply), 1, 8))).toBe("protocol")
    expect(codeOf(() => message.checkReply(header(1, 8), 1, 8))).toBe("protocol")
  })
})
