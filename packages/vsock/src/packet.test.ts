import fc from "fast-check"
import { expect, test } from "vitest"
import { emptyHeader, HeaderBuffer, type VsockHeader } from "./packet.js"

test("encodes the fields where struct virtio_vsock_hdr has them", () => {
  const buffer = new HeaderBuffer()

  buffer.encode({
    srcCid: 2,
    dstCid: 0x01_0203_0405,
    srcPort: 0x1111_1112,
    dstPort: 0x2222_2223,
    len: 0x3333_3334,
    type: 0x4445,
    op: 0x5556,
    flags: 0x6666_6667,
    bufAlloc: 0x7777_7778,
    fwdCnt: 0x8888_8889,
  })

  expect(Buffer.from(buffer.bytes).toString("hex")).toBe(
    "0200000000000000" +
      "0504030201000000" +
      "12111111" +
      "23222222" +
      "34333333" +
      "4544" +
      "5655" +
      "67666666" +
      "78777777" +
      "89888888",
  )
})

test("decode undoes encode", () => {
  const u32 = fc.integer({ min: 0, max: 0xffff_ffff })
  const u16 = fc.integer({ min: 0, max: 0xffff })
  const cid = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER })
  const headers: fc.Arbitrary<VsockHeader> = fc.record({
    srcCid: cid,
    dstCid: cid,
    srcPort: u32,
    dstPort: u32,
    len: u32,
    type: u16,
    op: u16,
    flags: u32,
    bufAlloc: u32,
    fwdCnt: u32,
  })
  fc.assert(
    fc.property(headers, header => {
      const buffer = new HeaderBuffer()
      const decoded = emptyHeader()
      buffer.encode(header)
      buffer.decode(decoded)
      expect(decoded).toEqual(header)
    }),
  )
})

test("V1: a CID with upper bits set never looks like a valid one", () => {
  const buffer = new HeaderBuffer()
  const header = emptyHeader()
  buffer.bytes.set([3, 0, 0, 0, 0, 0, 0, 0x80])

  buffer.decode(header)

  expect(header.srcCid).toBeGreaterThan(0xffff_ffff)
})
