// What is wrong with a request before anybody asks what it wants.
import { readdirSync } from "node:fs"
import { constants } from "node:os"
import { afterEach, beforeEach, expect, test } from "vitest"
import { direct } from "../testing/index.js"
import { FUSE } from "./protocol.js"
import { ShareUnderTest } from "./share-under-test.js"
import { type FuseDriver, u32, u64 } from "./testing.js"

const { EINVAL, EIO, ENOSYS } = constants.errno

let share: ShareUnderTest
let fs: FuseDriver
beforeEach(async () => {
  share = new ShareUnderTest()
  share.put({ file: "0123456789" })
  ;({ fs } = await share.attach())
})
afterEach(() => share[Symbol.asyncDispose]())

test("F6: an unknown opcode is ENOSYS", async () => {
  const known: number[] = Object.values(FUSE)
  for (const opcode of [0, 7, 19, 99, 4096, 0x1000_0000, 0xffff_ffff, ...Array(256).keys()]) {
    if (known.includes(opcode)) continue
    expect((await fs.request(opcode, 1, [new Uint8Array(64)])).error).toBe(-ENOSYS)
  }
})

test("F6: a length that is not that of the request is refused, with every opcode", async () => {
  for (const opcode of [...Object.values(FUSE), 999]) {
    for (const claimedLength of [0, 39, 40, 167, 169, 0xffff_ffff])
      expect((await fs.request(opcode, 1, [new Uint8Array(128)], { claimedLength })).error).toBe(-EINVAL)
  }
  const long = fs.message(FUSE.LOOKUP, 1, [new Uint8Array(100_000)])
  expect((await fs.raw(long)).error).toBe(-EINVAL)
  expect(readdirSync(share.shared)).toEqual(["file"])
})

test("F6: a request shorter than its header is used without an answer, one shorter than its arguments refused", async () => {
  const { fs } = await share.attach({ locks: true })
  for (const length of [1, 8, 39]) expect((await fs.raw(new Uint8Array(length))).used).toBe(0)
  const empty: number[] = [FUSE.READLINK, FUSE.STATFS, FUSE.DESTROY, FUSE.INTERRUPT]
  for (const opcode of Object.values(FUSE)) {
    if (empty.includes(opcode)) continue
    const { error } = await fs.request(opcode, 1)
    expect(error, `opcode ${opcode}`).toBe(-EINVAL)
  }
})

test("F6: a request in one-byte pieces is one request", async () => {
  const { driver } = await share.attach({}, direct, { queueSizes: [16, 128] })
  const [request, answer] = [fs.message(FUSE.INIT, 0, [u32(7), u32(38), u32(0), u32(0)]), driver.writable(80)]
  const pieces = [...request].map(byte => driver.readable(Uint8Array.of(byte)))
  expect((await driver.send(1, [...pieces, answer])).length).toBe(80)
})

test("F14: an answer that does not fit is EIO, one without room for its header nothing", async () => {
  const parts = [new Uint8Array(16)]
  for (const room of [1, 15]) expect((await fs.request(FUSE.GETATTR, 1, parts, { room })).used).toBe(0)
  for (const room of [16, 16 + 103])
    expect(await fs.request(FUSE.GETATTR, 1, parts, { room })).toMatchObject({ used: 16, error: -EIO })
  expect(await fs.request(FUSE.GETATTR, 1, parts, { room: 16 + 104 })).toMatchObject({
    used: 120,
    error: 0,
  })
  const node = await fs.node("file")
  const handle = await fs.open(node)
  expect((await fs.read(node, handle, 0, 10, { room: 15 })).used).toBe(0)
  expect((await fs.request(FUSE.FSYNC, node, [u64(handle), u64(0)], { room: 0 })).used).toBe(0)
  expect((await fs.request(FUSE.INTERRUPT, 0, [u64(1)])).used).toBe(0)
})
