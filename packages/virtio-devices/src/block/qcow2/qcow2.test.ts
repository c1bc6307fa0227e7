import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { deflateRawSync } from "node:zlib"
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest"
import { direct, MockDriver, randomSource } from "../../testing/index.js"
import type { BlockBackend } from "../backend.js"
import * as blk from "../defs.js"
import { BlockDevice } from "../device.js"
import { BlockError } from "../errors.js"
import { openFileBackend } from "../file-backend.js"
import { BlockDriver, REQUEST_QUEUE, rangeSegment, requestHeader } from "../testing.js"
import { createQcow2 } from "./create.js"
import { HEADER } from "./defs.js"
import { openQcow2Backend } from "./qcow2-backend.js"

const MIB = 1024 * 1024
const CLUSTER = 65536
let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ts-vmm-qcow2-"))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const closers: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

let count = 0
async function newImage(size = 8 * MIB): Promise<string> {
  const path = join(folder, `${++count}.qcow2`)
  await createQcow2(path, { size })
  return path
}

/** A driver of a disk on the image. */
async function attach(path: string, options?: Parameters<typeof openQcow2Backend>[1]) {
  const backend = await openQcow2Backend(path, options)
  const driver = await MockDriver.attach(new BlockDevice(backend), direct)
  let isClosed = false
  const close = async () => {
    if (isClosed) return
    isClosed = true
    await driver[Symbol.asyncDispose]()
    backend.close()
  }
  closers.push(close)
  return { block: new BlockDriver(driver), close }
}

const write = (block: BlockDriver, sector: number, bytes: Uint8Array) =>
  block.request(blk.VIRTIO_BLK_T_OUT, sector, { data: [bytes] })
const read = (block: BlockDriver, sector: number, length: number) =>
  block.request(blk.VIRTIO_BLK_T_IN, sector, { writable: [length] })
const flush = (block: BlockDriver) => block.request(blk.VIRTIO_BLK_T_FLUSH, 0)

describe("a disk on an image", () => {
  test("is zeroes, takes what is written, and has it when it is opened again", async () => {
    const path = await newImage()
    const { block, close } = await attach(path)
    expect((await read(block, 300, 512)).data.every(byte => byte === 0)).toBe(true)
    // Over the end of a cluster.
    expect((await write(block, 127, new Uint8Array(1024).fill(5))).status).toBe(blk.VIRTIO_BLK_S_OK)
    expect((await flush(block)).status).toBe(blk.VIRTIO_BLK_S_OK)
    await close()
    const again = await attach(path, { readOnly: true })
    const { data } = await read(again.block, 126, 2048)
    expect([...data.filter((_, at) => at % 512 === 0)]).toEqual([0, 5, 5, 0])
    expect((await write(again.block, 0, new Uint8Array(512))).status).toBe(blk.VIRTIO_BLK_S_IOERR)
  })

  test("writes to one cluster at the same time are both there", async () => {
    const { block } = await attach(await newImage())
    const sectors = [0, 1, 2, 3, 4]
    const { driver } = block
    for (const sector of sectors)
      driver.post(REQUEST_QUEUE, [
        driver.readable(requestHeader(blk.VIRTIO_BLK_T_OUT, sector)),
        driver.readable(new Uint8Array(512).fill(sector + 1)),
        driver.writable(1),
      ])
    // They come back in any order.
    for (const _ of sectors) await driver.nextUsed(REQUEST_QUEUE)
    const { data } = await read(block, 0, 5 * 512)
    expect(sectors.map(sector => data[sector * 512])).toEqual(sectors.map(sector => sector + 1))
  })

  test("a cluster that is discarded while it is written to is written, or not, and no error", async () => {
    const { block } = await attach(await newImage())
    const { driver } = block
    const range = () => driver.readable(rangeSegment(0, CLUSTER / 512))
    const statuses = Array.from({ length: 5 }, (_, i) => {
      const status = driver.writable(1)
      const [type, data] =
        i % 2 === 0
          ? [blk.VIRTIO_BLK_T_OUT, driver.readable(new Uint8Array(512).fill(1))]
          : [blk.VIRTIO_BLK_T_DISCARD, range()]
      driver.queue(REQUEST_QUEUE).post([driver.readable(requestHeader(type, 0)), data, status])
      return status
    })
    driver.port.kick(REQUEST_QUEUE)
    for (const _ of statuses) await driver.nextUsed(REQUEST_QUEUE)
    expect(statuses.map(status => status.bytes()[0])).toEqual(statuses.map(() => blk.VIRTIO_BLK_S_OK))
  })

  test("takes no more room than is written", async () => {
    const path = await newImage(1024 * MIB)
    const { block, close } = await attach(path)
    for (let i = 0; i < 4; i++) await write(block, i * 400_000, new Uint8Array(512).fill(1))
    await close()
    // Header, refcounts and L1: 4 clusters; tables: 2 for 512 MiB each; and the 4 that were written to.
    expect(statSync(path).size).toBe(10 * CLUSTER)
  })

  test("discard and write-zeroes leave zeroes and nothing else changed, and give room back", async () => {
    const path = await newImage()
    const { block } = await attach(path)
    await write(block, 0, new Uint8Array(1024 * 1024).fill(7))
    await flush(block)
    const before = statSync(path).blocks
    const ranges = { data: [rangeSegment(64, 512)] }
    expect((await block.request(blk.VIRTIO_BLK_T_WRITE_ZEROES, 0, ranges)).status).toBe(blk.VIRTIO_BLK_S_OK)
    expect(
      (await block.request(blk.VIRTIO_BLK_T_DISCARD, 0, { data: [rangeSegment(1024, 512)] })).status,
    ).toBe(blk.VIRTIO_BLK_S_OK)
    const { data } = await read(block, 0, 1024 * 1024)
    const model = new Uint8Array(1024 * 1024).fill(7)
    model.fill(0, 64 * 512, 576 * 512).fill(0, 1024 * 512, 1536 * 512)
    expect(Buffer.compare(data, model)).toBe(0)
    await flush(block)
    expect(statSync(path).blocks).toBeLessThan(before)
    expect((await write(block, 100, new Uint8Array(512).fill(3))).status).toBe(blk.VIRTIO_BLK_S_OK)
    expect((await read(block, 99, 1024)).data.filter(byte => byte === 3)).toHaveLength(512)
  })

  test("what was written without a flush is there when the disk is closed in order", async () => {
    const path = await newImage()
    const first = await attach(path)
    await write(first.block, 8, new Uint8Array(512).fill(3))
    await first.close()
    const { block } = await attach(path)
    expect((await read(block, 8, 512)).data[0]).toBe(3)
  })

  test("closed while a flush is under way, it ends in order", async () => {
    const path = await newImage()
    const backend = await openQcow2Backend(path)
    await backend.prepare?.(0, 512, "write")
    const flushing = backend.flush?.()
    backend.close()
    await flushing
    await expect(backend.flush?.()).rejects.toMatchObject({ code: "open" })
    const again = await openQcow2Backend(path)
    again.close()
  })
})

describe("images that are refused", () => {
  const change = (at: number, value: number | bigint) => (bytes: Buffer) =>
    typeof value === "bigint" ? bytes.writeBigUInt64BE(value, at) : bytes.writeUInt32BE(value, at)
  const cases: [string, string, (bytes: Buffer) => unknown][] = [
    ["no magic", "format", change(HEADER.magic, 0)],
    ["version 4", "unsupported", change(HEADER.version, 4)],
    ["clusters of 1 byte", "format", change(HEADER.clusterBits, 0)],
    ["clusters of 4 GiB", "format", change(HEADER.clusterBits, 32)],
    ["clusters of 512 bytes", "unsupported", change(HEADER.clusterBits, 9)],
    ["no size", "format", change(HEADER.size, 0n)],
    ["a size over 2^53", "format", change(HEADER.size, 1n << 60n)],
    ["a size that L1 does not cover", "format", change(HEADER.size, 1n << 40n)],
    ["encryption", "unsupported", change(HEADER.cryptMethod, 2)],
    ["an endless L1", "format", change(HEADER.l1Size, 0xffffffff)],
    ["L1 behind the end", "format", change(HEADER.l1TableOffset, 1n << 40n)],
    ["L1 on the header", "format", change(HEADER.l1TableOffset, 0n)],
    ["L1 that is not aligned", "format", change(HEADER.l1TableOffset, BigInt(CLUSTER + 8))],
    ["an endless refcount table", "format", change(HEADER.refcountTableClusters, 0xffffffff)],
    ["no refcount table", "format", change(HEADER.refcountTableClusters, 0)],
    ["refcounts behind the end", "format", change(HEADER.refcountTableOffset, 1n << 50n)],
    ["snapshots", "unsupported", change(HEADER.nbSnapshots, 1)],
    ["dirty", "format", change(HEADER.incompatibleFeatures, 1n)],
    ["corrupt", "format", change(HEADER.incompatibleFeatures, 2n)],
    ["data elsewhere", "unsupported", change(HEADER.incompatibleFeatures, 4n)],
    ["subclusters", "unsupported", change(HEADER.incompatibleFeatures, 16n)],
    ["a feature of the future", "unsupported", change(HEADER.incompatibleFeatures, 1n << 40n)],
    ["refcounts of 2^7 bits", "format", change(HEADER.refcountOrder, 7)],
    ["a header of 8 bytes", "format", change(HEADER.headerLength, 8)],
    ["a header of 4 GiB", "format", change(HEADER.headerLength, 0xfffffff8)],
    [
      "a backing file's name outside",
      "format",
      bytes => {
        bytes.writeBigUInt64BE(BigInt(CLUSTER), HEADER.backingFileOffset)
        bytes.writeUInt32BE(10, HEADER.backingFileSize)
      },
    ],
    [
      "a backing file's name of 4 GiB",
      "format",
      bytes => {
        bytes.writeBigUInt64BE(112n, HEADER.backingFileOffset)
        bytes.writeUInt32BE(0xffffffff, HEADER.backingFileSize)
      },
    ],
  ]
  test.each(cases)("B7: %s: %s", async (_, code, damage) => {
    const path = await newImage()
    const bytes = readFileSync(path)
    damage(bytes)
    writeFileSync(path, bytes)
    await expect(openQcow2Backend(path)).rejects.toMatchObject({ name: "BlockError", code })
  })

  test.each([0, 10, 72, 100, CLUSTER, 3 * CLUSTER])("B7: cut to %i bytes", async length => {
    const path = await newImage()
    truncateSync(path, length)
    await expect(openQcow2Backend(path)).rejects.toMatchObject({ code: "format" })
  })

  test("B7: a backing file is not opened by what the image calls it", async () => {
    const path = join(folder, "stands-on.qcow2")
    await createQcow2(path, { size: MIB, backing: { name: "/etc/passwd", format: "raw" } })
    await expect(openQcow2Backend(path)).rejects.toMatchObject({ code: "backing" })
    const disk = await openQcow2Backend(path, {
      openBacking: ({ name, format }) => {
        expect([name, format]).toEqual(["/etc/passwd", "raw"])
        return openFileBackend(path, { readOnly: true, lock: false })
      },
    })
    disk.close()
  })

  test("no file, a folder, a file that is there already", async () => {
    await expect(openQcow2Backend(join(folder, "none"))).rejects.toMatchObject({ code: "open" })
    await expect(openQcow2Backend(folder, { readOnly: true })).rejects.toMatchObject({ code: "not-a-disk" })
    const path = await newImage()
    await expect(createQcow2(path, { size: MIB })).rejects.toMatchObject({ code: "open" })
    await expect(createQcow2(`${path}2`, { size: 100 })).rejects.toMatchObject({ code: "size" })
  })
})

describe("tables that lie: an I/O error, and no more", () => {
  /** An image whose first cluster is written, with one of its 64-bit words changed. */
  async function withWord(at: number, word: bigint): Promise<string> {
    const path = await newImage()
    const { block, close } = await attach(path)
    await write(block, 0, new Uint8Array(512).fill(9))
    await close()
    const bytes = readFileSync(path)
    bytes.writeBigUInt64BE(word, at)
    writeFileSync(path, bytes)
    return path
  }
  const [L1, L2] = [3 * CLUSTER, 4 * CLUSTER]
  const COPIED = 1n << 63n
  const COMPRESSED = 1n << 62n

  test.each([
    ["L2 behind the end", L1, COPIED | (1n << 50n)],
    ["L2 that is not aligned", L1, COPIED | 512n],
    ["data behind the end", L2, COPIED | (1n << 50n)],
    ["compressed, behind the end", L2, COMPRESSED | (1n << 50n)],
    ["compressed, no stream", L2, COMPRESSED | BigInt(CLUSTER)],
    ["compressed, of gigabytes", L2, COMPRESSED | ((1n << 62n) - 1n)],
  ])("B7: %s", async (_, at, word) => {
    const { block } = await attach(await withWord(at, word), { readOnly: true })
    expect((await read(block, 0, 512)).status).toBe(blk.VIRTIO_BLK_S_IOERR)
    // Another table, or none: the disk goes on.
    if (at === L2) expect((await read(block, 128, 512)).status).toBe(blk.VIRTIO_BLK_S_OK)
  })

  test("B7: a compressed cluster that unpacks to more than a cluster", async () => {
    const path = await withWord(L2, COMPRESSED | BigInt(5 * CLUSTER) | (7n << 54n))
    const bytes = readFileSync(path)
    const bomb = deflateRawSync(Buffer.alloc(3 * MIB))
    expect(bomb.length).toBeLessThan(8 * 512)
    bomb.copy(bytes, 5 * CLUSTER)
    writeFileSync(path, bytes)
    const { block } = await attach(path, { readOnly: true })
    expect((await read(block, 0, 512)).status).toBe(blk.VIRTIO_BLK_S_IOERR)
  })

  // Each image that opens is flushed and closed, which waits for the disk: hundreds of times.
  test("B7: whatever bytes of its tables are changed, it opens or is refused, and requests end", {
    timeout: 240_000,
  }, async () => {
    const path = await newImage()
    const { block, close } = await attach(path)
    for (let i = 0; i < 5; i++) await write(block, i * 128, new Uint8Array(512).fill(9))
    await close()
    const whole = readFileSync(path)
    const random = randomSource(1)
    let opened = 0
    for (let round = 0; round < 300; round++) {
      const bytes = Buffer.from(whole)
      const table = CLUSTER * random(5)
      for (let i = 0; i < 1 + random(3); i++) bytes[table + random(random(2) ? 16 : 112)] = random(256)
      writeFileSync(path, bytes)
      const disk = await openQcow2Backend(path).catch((error: unknown) => error)
      if (disk instanceof BlockError) continue
      opened++
      const backend = disk as BlockBackend
      for (const access of ["read", "write"] as const)
        for (let sector = 0; sector < 640; sector += 64)
          await backend.prepare?.(sector * 512, 512, access)?.catch(error => {
            expect(error).toBeInstanceOf(BlockError)
          })
      await backend.flush?.().catch(error => expect(error).toBeInstanceOf(BlockError))
      backend.close()
    }
    expect(opened).toBeGreaterThan(50)
  })

  test("B7: a table that somebody else may have is not written to", async () => {
    const { block } = await attach(await withWord(L1, BigInt(L2)))
    expect((await write(block, 0, new Uint8Array(512))).status).toBe(blk.VIRTIO_BLK_S_IOERR)
    expect((await read(block, 0, 512)).data[0]).toBe(9)
  })

  test("B7: what lies behind the end of the file is not given back", async () => {
    const { block } = await attach(await withWord(L2, BigInt(6 * CLUSTER)))
    expect((await write(block, 0, new Uint8Array(512))).status).toBe(blk.VIRTIO_BLK_S_IOERR)
  })
})
