import { mkdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from "node:fs"
import { constants } from "node:os"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { deviceConformance, direct, type MockDriver, overMmio, overVhostUser } from "../testing/index.js"
import { FOPEN_CACHE_DIR, FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FUSE, INIT_FLAGS } from "./protocol.js"
import { ShareUnderTest } from "./share-under-test.js"
import { entryOf, FuseDriver, mustBe, u32, u64 } from "./testing.js"

const { EBADF, EINVAL, EIO } = constants.errno
const MIB = 2 ** 20
const pattern = (length: number) => Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 9)) & 0xff)

let share: ShareUnderTest
beforeEach(() => {
  share = new ShareUnderTest()
})
afterEach(() => share[Symbol.asyncDispose]())

describe.each([direct, overVhostUser, overMmio])("file system device over $name", over => {
  const works = async (driver: MockDriver) => {
    const fs = new FuseDriver(driver)
    expect((await fs.init()).error).toBe(0)
    const node = await fs.node("hello")
    const handle = await fs.open(node)
    expect(Buffer.from(textOf((await fs.read(node, handle, 0, 100)).body)).toString()).toBe("hello\n")
    await fs.driver.reset()
  }
  const makeDevice = () => {
    share.put({ hello: "hello\n" })
    return share.device()
  }
  // Requests take more room than rings of random bytes, and there are many of them.
  const driver = {
    regions: [
      { start: 0, size: MIB },
      { start: MIB, size: MIB },
      { start: 2 ** 32, size: 24 * MIB },
    ],
  }
  test.each(deviceConformance({ makeDevice, over, works, driver, requestQueues: [0, 1] }))(
    "$name",
    ({ run }) => run(),
  )

  test("config space has the tag and the number of queues", async () => {
    const { driver, device } = await share.attach({ tag: "data", queues: 3 }, over)
    const config = await driver.port.readConfig(0, 44)
    expect(Buffer.from(config.subarray(0, 36)).toString()).toBe("data".padEnd(36, "\0"))
    expect(new DataView(config.buffer, config.byteOffset).getUint32(36, true)).toBe(3)
    expect(device.queueSizes).toHaveLength(4)
  })

  test("every queue serves requests", async () => {
    const { driver } = await share.attach({ queues: 3 }, over)
    for (let queue = 0; queue < 4; queue++)
      expect((await new FuseDriver(driver, queue).getattr(1)).mode & 0o170000).toBe(0o040000)
  })

  test("writes and reads what fits one request, short and long", async () => {
    const { fs, driver } = await share.attach({}, over, {
      regions: [
        { start: 0, size: MIB },
        { start: 2 ** 32, size: 8 * MIB },
      ],
    })
    const { node, handle } = mustBe(await fs.create("file"))
    const long = driver.alloc(MIB + 256)
    for (const size of [1, 5000, 700 * 1024, MIB]) {
      const data = pattern(size)
      const message = fs.message(FUSE.WRITE, node, [
        ...[u64(handle), u64(3), u32(size), u32(0), u64(0), u64(0)],
        data,
      ])
      const answer = driver.writable(24)
      await driver.send(1, [driver.readable(message, long), answer])
      expect(new DataView(answer.bytes().buffer).getUint32(16, true)).toBe(size)
      const header = driver.writable(16)
      const into = driver.writable(size, long)
      const question = fs.message(FUSE.READ, node, [u64(handle), u64(3), u32(size), u32(0), u64(0), u64(0)])
      const used = await driver.send(1, [driver.readable(question), header, into])
      expect(used.length).toBe(16 + size)
      expect(Buffer.compare(into.bytes(), data)).toBe(0)
    }
    expect(readFileSync(share.path("file"))).toHaveLength(MIB + 3)
  })

  test("Q21: a reset in the middle of reads and syncs ends them, and nothing stays open", async () => {
    writeFileSync(share.path("big"), pattern(MIB))
    const { fs, driver, device } = await share.attach({}, over, {
      regions: [
        { start: 0, size: MIB },
        { start: 2 ** 32, size: 40 * MIB },
      ],
    })
    for (let round = 0; round < 3; round++) {
      const node = await fs.node("big")
      const handle = await fs.open(node)
      const into = Array.from({ length: 4 }, () => driver.writable(16 + MIB))
      for (const buffer of into) {
        const parts = [u64(handle), u64(0), u32(MIB), u32(0), u64(0), u64(0)]
        driver.post(1, [driver.readable(fs.message(FUSE.READ, node, parts)), buffer])
      }
      const sync = fs.message(FUSE.FSYNC, node, [u64(handle), u64(0)])
      driver.post(1, [driver.readable(sync), driver.writable(16)])
      const release = fs.message(FUSE.RELEASE, node, [u64(handle), new Uint8Array(16)])
      driver.post(1, [driver.readable(release), driver.writable(16)])
      await driver.port.reset()
      // Where nothing stands between, nobody waits.
      if (over === direct) await device.idle()
      expect(device.idle()).toBeUndefined()
      for (const buffer of into) driver.memory.write(buffer.address, new Uint8Array(16 + MIB).fill(0x5a))
      await driver.port.settle()
      for (const buffer of into) expect(buffer.bytes().every(byte => byte === 0x5a)).toBe(true)
      expect(device.counts).toEqual({ inodes: 1, handles: 0 })
      await driver.initialise()
      expect((await fs.init()).error).toBe(0)
    }
  })
})

describe("sessions", () => {
  test("F6: nothing but INIT is answered before INIT, and after DESTROY", async () => {
    const { fs, device } = await share.attach({ init: false })
    const refused = async () => {
      for (const opcode of Object.values(FUSE)) {
        const isSilent = opcode === FUSE.INIT
        if (isSilent) continue
        expect((await fs.request(opcode, 1, [new Uint8Array(120)])).error, `opcode ${opcode}`).toBe(-EIO)
      }
    }
    await refused()
    expect((await fs.init()).error).toBe(0)
    const node = mustBe(await fs.create("file")).node
    expect(device.counts).toEqual({ inodes: 2, handles: 1 })
    expect((await fs.request(FUSE.DESTROY, 0)).error).toBe(0)
    expect(device.counts).toEqual({ inodes: 1, handles: 0 })
    await refused()
    await fs.init()
    expect((await fs.request(FUSE.GETATTR, node, [new Uint8Array(16)])).error).toBe(-constants.errno.ENOENT)
  })

  test("F6: a second INIT begins again", async () => {
    const { fs, device } = await share.attach()
    const { node, handle } = mustBe(await fs.create("file"))
    expect((await fs.init()).error).toBe(0)
    expect(device.counts).toEqual({ inodes: 1, handles: 0 })
    expect((await fs.read(node, handle, 0, 1)).error).toBe(-EBADF)
  })

  test("F6: an older protocol is refused, a newer one told of ours", async () => {
    const { fs } = await share.attach({ init: false })
    for (const [major, minor] of [
      [6, 38],
      [0, 0],
      [7, 22],
      [7, 0],
    ] as const)
      expect((await fs.init(major, minor)).error).toBe(-EIO)
    for (const major of [8, 0xffff_ffff]) {
      const { error, body } = await fs.init(major)
      expect([error, body.getUint32(0, true), body.getUint32(4, true)]).toEqual([0, 7, 38])
      expect((await fs.request(FUSE.GETATTR, 1, [new Uint8Array(16)])).error).toBe(-EIO)
    }
    for (const minor of [23, 38, 45, 0xffff_ffff]) expect((await fs.init(7, minor)).error).toBe(0)
    expect((await fs.request(FUSE.INIT, 0, [u32(7), u32(38), u32(0)])).error).toBe(-EINVAL)
  })

  test("INIT takes what was offered of what is known, and nothing else", async () => {
    const { fs } = await share.attach()
    const all = await fs.init()
    expect(all.body.byteLength).toBe(64)
    const known = Object.values(INIT_FLAGS).reduce((sum, flag) => sum | flag, 0) & ~INIT_FLAGS.WRITEBACK_CACHE
    expect(all.body.getUint32(12, true)).toBe(known)
    expect(all.body.getUint32(20, true)).toBe(MIB)
    expect((await fs.init(7, 38, INIT_FLAGS.SUBMOUNTS)).body.getUint32(12, true)).toBe(INIT_FLAGS.SUBMOUNTS)
  })

  test.each([
    ["none", 0, FOPEN_DIRECT_IO, 0],
    ["auto", 1, 0, 0],
    ["always", 86_400, FOPEN_KEEP_CACHE, FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR],
  ] as const)("cache %s: what is told holds %i s", async (cache, seconds, fileFlags, directoryFlags) => {
    share.put({ file: "" })
    const { fs } = await share.attach({ cache, writeback: true })
    const answer = await fs.request(FUSE.LOOKUP, 1, ["file"])
    expect([16, 24].map(at => Number(answer.body.getBigUint64(at, true)))).toEqual([seconds, seconds])
    const { node } = mustBe(entryOf(answer))
    const flagsOf = async (opcode: number, of: number) =>
      (await fs.request(opcode, of, [u32(0), u32(0)])).body.getUint32(8, true)
    expect(await flagsOf(FUSE.OPEN, node)).toBe(fileFlags)
    expect(await flagsOf(FUSE.OPENDIR, 1)).toBe(directoryFlags)
    const { body } = await fs.init()
    const writeback = (body.getUint32(12, true) & INIT_FLAGS.WRITEBACK_CACHE) !== 0
    expect(writeback).toBe(cache !== "none")
  })

  test("with write-back a file opened for writing can be read, and positions are the guest's", async () => {
    share.put({ file: "0123456789" })
    const { fs } = await share.attach({ writeback: true })
    const node = await fs.node("file")
    const handle = await fs.open(node, 0o2001) // O_WRONLY and O_APPEND
    expect((await fs.write(node, handle, 2, Buffer.from("xx"))).error).toBe(0)
    expect(readFileSync(share.path("file"), "utf8")).toBe("01xx456789")
    expect(textOf((await fs.read(node, handle, 0, 10)).body).toString()).toBe("01xx456789")
  })

  test("without write-back O_APPEND appends, wherever the guest believes the end to be", async () => {
    share.put({ file: "0123456789" })
    const { fs } = await share.attach()
    const node = await fs.node("file")
    const handle = await fs.open(node, 0o2001)
    expect((await fs.write(node, handle, 2, Buffer.from("xx"))).body.getUint32(0, true)).toBe(2)
    expect(readFileSync(share.path("file"), "utf8")).toBe("0123456789xx")
    expect((await fs.read(node, handle, 0, 10)).error).toBe(-EBADF)
  })

  test.each([0o10000, 0o4010000])("a file opened with O_SYNC or O_DSYNC (%i) is written", async flag => {
    const { fs } = await share.attach({}, overMmio)
    const { node, handle } = mustBe(await fs.create("file", { flags: 2 | flag }))
    expect((await fs.write(node, handle, 0, Buffer.from("durable"))).body.getUint32(0, true)).toBe(7)
    expect(readFileSync(share.path("file"), "utf8")).toBe("durable")
  })

  test("a file that shrinks while it is read gives what there is", async () => {
    share.put({ file: "0123456789" })
    const { fs } = await share.attach()
    const node = await fs.node("file")
    const handle = await fs.open(node)
    truncateSync(share.path("file"), 4)
    expect((await fs.read(node, handle, 2, 8)).body.byteLength).toBe(2)
    expect((await fs.read(node, handle, 4, 8)).body.byteLength).toBe(0)
  })
})

test("options out of range, and what cannot be shared, are refused", () => {
  for (const options of [
    { tag: "" },
    { tag: "x".repeat(37) },
    { tag: "a\0b" },
    { queues: 0 },
    { queues: 17 },
    { queues: 1.5 },
    { maxFiles: 15 },
    { maxFiles: 1_000_001 },
  ])
    expect(() => share.device(options)).toThrow(RangeError)
  expect(() => share.device({}, share.path("missing"))).toThrow(expect.objectContaining({ code: "ENOENT" }))
  expect(() => share.device({}, "/dev/null")).toThrow("neither a folder nor a regular file")
  mkdirSync(share.path("folder"))
  symlinkSync("folder", share.path("link"))
  expect(() => share.device({ tag: "ü".repeat(18) }, share.path("link"))).not.toThrow()
})

function textOf(body: DataView): Buffer {
  return Buffer.from(body.buffer, body.byteOffset, body.byteLength)
}
