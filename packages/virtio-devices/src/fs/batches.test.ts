import { writeFileSync } from "node:fs"
import { constants } from "node:os"
import { afterEach, beforeEach, expect, test } from "vitest"
import { VIRTIO_F_EVENT_IDX } from "../features.js"
import { direct } from "../testing/direct.js"
import type { MockDriver } from "../testing/mock-driver.js"
import { FUSE, OUT_HEADER_SIZE } from "./protocol.js"
import { ShareUnderTest } from "./share-under-test.js"
import { type FuseDriver, type Part, REQUEST_QUEUE, u32, u64 } from "./testing.js"

const { EBADF } = constants.errno
const PIECE = 128 * 1024
/** Far more than is read before the driver hears of it. */
const PIECES = 40
const CONTENT = Buffer.from(Uint32Array.from({ length: (PIECE * PIECES) / 4 }, (_, index) => index).buffer)

let share: ShareUnderTest
let driver: MockDriver
let fs: FuseDriver
let node: number
let handle: number
beforeEach(async () => {
  share = new ShareUnderTest()
  writeFileSync(share.path("file"), CONTENT)
  const regions = [{ start: 0, size: 2 * CONTENT.length }]
  // Each publication that the driver can be told of is an interrupt then.
  const features = (offered: bigint) => offered & ~VIRTIO_F_EVENT_IDX
  const options = { queueSizes: [16, 128], regions, heapStart: 4096, features }
  ;({ driver, fs } = await share.attach({}, direct, options))
  node = await fs.node("file")
  handle = await fs.open(node, 2)
})
afterEach(async () => {
  share.checkOutside()
  await share[Symbol.asyncDispose]()
})

/** Makes a request available without telling the device. @returns its id, and where its answer will be */
function put(opcode: number, parts: readonly Part[], room: number) {
  const answer = driver.writable(OUT_HEADER_SIZE + room)
  const buffers = [driver.readable(fs.message(opcode, node, parts)), answer]
  return { id: driver.queue(REQUEST_QUEUE).post(buffers), answer }
}

const read = (offset: number, size: number) => [
  ...[u64(handle), u64(offset), u32(size), u32(0)],
  ...[u64(0), u32(0), u32(0)],
]
const write = (offset: number, data: Uint8Array) => [
  ...[u64(handle), u64(offset), u32(data.length), u32(0)],
  ...[u64(0), u32(0), u32(0), data],
]

/** Tells the device of `puts`. @returns the answers in the order of the requests: errno and body */
async function serve(puts: readonly ReturnType<typeof put>[]): Promise<[number, Buffer][]> {
  driver.port.kick(REQUEST_QUEUE)
  const lengths = new Map<number, number>()
  while (lengths.size < puts.length) {
    const { id, length } = await driver.nextUsed(REQUEST_QUEUE)
    expect(lengths.has(id), "answered once").toBe(false)
    lengths.set(id, length)
  }
  return puts.map(({ id, answer }) => {
    const bytes = Buffer.alloc(lengths.get(id) ?? 0)
    driver.memory.read(answer.address, bytes)
    expect(bytes.readUInt32LE(0)).toBe(bytes.length)
    return [bytes.readInt32LE(4), bytes.subarray(OUT_HEADER_SIZE)]
  })
}

test("many reads at once are answered one by one, each with its own data", async () => {
  const order = Array.from({ length: PIECES }, (_, index) => (index * 7) % PIECES)
  const answers = await serve(order.map(piece => put(FUSE.READ, read(piece * PIECE, PIECE), PIECE)))
  for (const [index, piece] of order.entries()) {
    const [error, body] = answers[index] as [number, Buffer]
    expect(error).toBe(0)
    expect(body.equals(CONTENT.subarray(piece * PIECE, (piece + 1) * PIECE)), `piece ${piece}`).toBe(true)
  }
})

test("a driver that runs beside the device hears of the first reads while the next are done", async () => {
  const reads = (count: number, size: number) =>
    Array.from({ length: count }, () => put(FUSE.READ, read(0, size), size))
  for (let i = 0; i < 8; i++) await serve(reads(1, 8))
  const interruptsOf = async (puts: ReturnType<typeof put>[]) => {
    const before = driver.interrupts(REQUEST_QUEUE)
    await serve(puts)
    return driver.interrupts(REQUEST_QUEUE) - before
  }
  expect(await interruptsOf(reads(28, 8))).toBe(3)
  expect(await interruptsOf(reads(9, 2 * PIECE))).toBe(3)
})

test("a write is seen by the read behind it, and what comes after closing finds nothing open", async () => {
  const text = Buffer.from("written")
  const answers = await serve([
    put(FUSE.READ, read(0, 8), 8),
    put(FUSE.WRITE, write(0, text), 8),
    put(FUSE.READ, read(0, text.length), text.length),
    put(FUSE.RELEASE, [u64(handle), u32(0), u32(0), u64(0)], 0),
    put(FUSE.READ, read(0, 8), 8),
  ])
  expect(answers.map(([error]) => error)).toEqual([0, 0, 0, 0, -EBADF])
  expect(answers[0]?.[1]).toEqual(CONTENT.subarray(0, 8))
  expect(answers[1]?.[1].readUInt32LE(0)).toBe(text.length)
  expect(answers[2]?.[1]).toEqual(text)
})
