import {
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  symlinkSync,
  truncateSync,
} from "node:fs"
import { constants } from "node:os"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { overMmio } from "../testing/index.js"
import type { MmioPort } from "../testing/mmio-port.js"
import { FUSE, REMOVEMAPPING_ONE_SIZE } from "./protocol.js"
import { type Attached, ShareUnderTest, WINDOW_START } from "./share-under-test.js"
import { type FuseDriver, type Part, u32, u64 } from "./testing.js"

const { EACCES, EBADF, EINVAL, EIO, EISDIR, ELOOP, ENOENT, ENOSYS, EROFS } = constants.errno
const RANGE = 2 * 2 ** 20
const WINDOW = 8 * RANGE
const DAX = { size: WINDOW }
const READ = 2
const WRITE = 1
const NO_HANDLE = (1n << 64n) - 1n
const MAX_U64 = (1n << 64n) - 1n
const isRoot = process.getuid?.() === 0

let share: ShareUnderTest
let fs: FuseDriver
let device: Attached["device"]
let memory: number
beforeEach(async () => {
  share = new ShareUnderTest()
  share.put({ file: "0123456789", other: "other", large: "" })
  truncateSync(share.path("large"), 3 * RANGE)
  memory = openSync("/proc/self/mem", "r+")
  ;({ fs, device } = await share.attach({ dax: DAX }))
})
afterEach(async () => {
  share.checkOutside()
  closeSync(memory)
  await share[Symbol.asyncDispose]()
})

interface SetUp {
  readonly handle?: number | bigint
  readonly fileOffset?: number | bigint
  readonly size?: number | bigint
  readonly flags?: number | bigint
  readonly offset?: number | bigint
}

/** SETUPMAPPING. @returns 0 or a negative errno */
async function setUp(node: number, request: SetUp = {}, by = fs): Promise<number | undefined> {
  const { handle = NO_HANDLE, fileOffset = 0, size = RANGE, flags = READ | WRITE, offset = 0 } = request
  const parts = [handle, fileOffset, size, flags, offset].map(u64)
  return (await by.request(FUSE.SETUPMAPPING, node, parts)).error
}

/** REMOVEMAPPING. @returns 0 or a negative errno */
async function remove(
  parts: readonly (readonly [offset: number | bigint, size: number | bigint])[],
  count = parts.length,
) {
  const list = parts.flatMap(([offset, size]): Part[] => [u64(offset), u64(size)])
  return (await fs.request(FUSE.REMOVEMAPPING, 1, [u32(count), ...list])).error
}

/** What the guest would read in the window: text, or undefined where nothing is mapped. */
function seen(offset: number, length = 1, of = device): string | undefined {
  const [part] = of.deviceMemory!.parts as readonly { hostAddress: bigint }[]
  const address = Number(part!.hostAddress) + offset
  const line = readFileSync("/proc/self/maps", "latin1")
    .split("\n")
    .map(map => /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(map))
    .find(map => map && Number(`0x${map[1]}`) <= address && address < Number(`0x${map[2]}`))
  if (!line?.[3]?.startsWith("r")) return undefined
  const bytes = Buffer.alloc(length)
  readSync(memory, bytes, 0, length, address)
  return bytes.toString("latin1")
}

const countFds = () => readdirSync("/proc/self/fd").length

describe("a window", () => {
  test("is address space for whoever runs the guest, and region 0 once it has a place", async () => {
    const own = share.device({ dax: DAX })
    expect(own.deviceMemory).toMatchObject({ size: WINDOW, alignment: RANGE })
    expect(own.deviceMemory?.parts).toMatchObject([{ size: WINDOW, readOnly: false }])
    expect(own.sharedMemory).toEqual([])
    own.deviceMemory?.placedAt(WINDOW_START)
    expect(own.sharedMemory).toEqual([{ id: 0, base: WINDOW_START, length: WINDOW }])
    expect(share.device({ dax: { size: RANGE }, readOnly: true }).deviceMemory?.parts).toMatchObject([
      { readOnly: true },
    ])
  })

  test("is not there unless it is asked for", () => {
    const own = share.device()
    expect([own.deviceMemory, own.sharedMemory, own.mappedRanges]).toEqual([undefined, [], 0])
  })

  test.each([0, 4096, RANGE / 2, 3 * RANGE, 2 ** 33, -RANGE, 1.5, Number.NaN])("refuses size %d", size => {
    expect(() => share.device({ dax: { size } })).toThrow(RangeError)
  })

  test("is in the registers of virtio-mmio", async () => {
    const placed = share.device({ dax: DAX })
    placed.deviceMemory?.placedAt(WINDOW_START)
    const driver = await share.drive(placed, overMmio, {})
    const port = driver.port as MmioPort
    port.write32(0x0ac, 0)
    expect([0x0bc, 0x0b8, 0x0b4, 0x0b0].map(offset => port.read32(offset))).toEqual([1, 2 ** 30, 0, WINDOW])
  })

  test("INIT says how mappings are aligned, where there is a window and the guest asks", async () => {
    const flag = 1 << 26
    const said = async (by: FuseDriver, flags?: number) => {
      const { body } = await by.init(7, 38, flags)
      return [body.getUint32(12, true) & flag, body.getUint16(30, true)]
    }
    expect(await said(fs)).toEqual([flag, 21])
    expect(await said(fs, 0)).toEqual([0, 0])
    const unplaced = await share.attach({ dax: DAX, init: false })
    expect(await said(unplaced.fs)).toEqual([0, 0])
  })
})

describe("mappings", () => {
  test("show the file's own pages, both ways, and are taken away", async () => {
    const node = await fs.node("file")
    expect(await setUp(node, { offset: RANGE })).toBe(0)
    expect(seen(RANGE, 10)).toBe("0123456789")
    expect([seen(0), seen(2 * RANGE)]).toEqual([undefined, undefined])
    expect(device.mappedRanges).toBe(1)

    const handle = await fs.open(node, 2)
    await fs.write(node, handle, 2, Buffer.from("xy"))
    expect(seen(RANGE, 10)).toBe("01xy456789")
    expect(await remove([[RANGE, RANGE]])).toBe(0)
    expect([seen(RANGE), device.mappedRanges]).toEqual([undefined, 0])
  })

  test("of parts of a file, over each other, for reading and then for writing", async () => {
    const [file, large] = [await fs.node("file"), await fs.node("large")]
    await fs.write(large, await fs.open(large, 2), RANGE, Buffer.from("second"))
    expect(await setUp(large, { fileOffset: RANGE, size: 2 * RANGE, flags: READ })).toBe(0)
    expect(seen(0, 6)).toBe("second")
    expect(await setUp(large, { fileOffset: RANGE, size: 2 * RANGE })).toBe(0)
    expect(await setUp(file, { offset: RANGE })).toBe(0)
    expect([seen(0, 6), seen(RANGE, 4), device.mappedRanges]).toEqual(["second", "0123", 2])
  })

  test("by a handle, for what it is open for", async () => {
    const node = await fs.node("file")
    const [reader, writer] = [await fs.open(node, 0), await fs.open(node, 2)]
    expect(await setUp(node, { handle: reader, flags: READ })).toBe(0)
    expect(await setUp(node, { handle: reader })).toBe(-EACCES)
    expect(await setUp(node, { handle: await fs.open(node, 1), flags: READ })).toBe(-EACCES)
    expect(seen(0, 3)).toBe("012")
    expect(await setUp(node, { handle: writer, offset: RANGE })).toBe(0)
    await fs.release(node, writer)
    expect(seen(RANGE, 3)).toBe("012")
  })

  test("stay when the file has no name any more", async () => {
    const node = await fs.node("file")
    const handle = await fs.open(node, 2)
    await fs.request(FUSE.UNLINK, 1, ["file"])
    expect(await setUp(node)).toBe(0)
    expect(seen(0, 3)).toBe("012")
    await fs.release(node, handle)
  })

  test("cost no fd", async () => {
    const node = await fs.node("file")
    await setUp(node)
    const before = countFds()
    for (let range = 0; range < 8; range++) expect(await setUp(node, { offset: range * RANGE })).toBe(0)
    expect(countFds()).toBe(before)
    expect(device.mappedRanges).toBe(8)
  })
})

describe("what ends mappings", () => {
  beforeEach(async () => {
    expect(await setUp(await fs.node("file"), { offset: RANGE })).toBe(0)
    expect(await setUp(await fs.node("other"))).toBe(0)
    expect([seen(0), seen(RANGE)]).toEqual(["o", "0"])
  })

  test("F7: FORGET takes those of its file, and no others", async () => {
    await fs.forget(await fs.node("file"), 100)
    expect([seen(0), seen(RANGE), device.mappedRanges]).toEqual(["o", undefined, 1])
  })

  test.each<[string, () => unknown]>([
    ["DESTROY", () => fs.request(FUSE.DESTROY, 0, [])],
    ["F6: a second INIT", () => fs.init()],
    ["the reset of the device", () => device.reset()],
  ])("%s takes all", async (_, end) => {
    await end()
    expect([seen(0), seen(RANGE), device.mappedRanges]).toEqual([undefined, undefined, 0])
  })
})

describe("what a hostile guest asks for maps nothing, and leaves what was mapped", () => {
  let node: number
  beforeEach(async () => {
    node = await fs.node("file")
    expect(await setUp(node, { flags: READ })).toBe(0)
  })
  afterEach(() => {
    expect([seen(0, 4), device.mappedRanges]).toEqual(["0123", 1])
  })

  test.each<[string, SetUp]>([
    ["a window offset off its grid", { offset: 4096 }],
    ["a window offset at the end", { offset: WINDOW }],
    ["a part that ends outside", { offset: WINDOW - RANGE, size: 2 * RANGE }],
    ["more than the window", { size: WINDOW + RANGE }],
    ["no bytes", { size: 0 }],
    ["half a range", { size: RANGE / 2 }],
    ["a size that wraps", { offset: RANGE, size: MAX_U64 - BigInt(RANGE) + 1n }],
    ["an offset that wraps", { offset: MAX_U64 - BigInt(RANGE) + 1n }],
    ["a size of 2^63", { size: 2n ** 63n }],
    ["a file offset off the grid", { fileOffset: 4096 }],
    ["a file offset near 2^63", { fileOffset: 2n ** 63n - BigInt(RANGE) }],
    ["a file offset that wraps", { fileOffset: MAX_U64 - BigInt(RANGE) + 1n }],
    ["no flags", { flags: 0 }],
    ["unknown flags", { flags: 7 }],
    ["high flags", { flags: 2n ** 63n + 2n }],
  ])("F5: %s", async (_, request) => {
    expect(await setUp(node, request)).toBe(-EINVAL)
  })

  test("F3: what is no regular file", async () => {
    mkdirSync(share.path("dir"))
    symlinkSync("../outside/canary", share.path("link"))
    expect(await setUp(1, { flags: READ })).toBe(-EISDIR)
    expect(await setUp(await fs.node("dir"), { flags: READ })).toBe(-EISDIR)
    expect(await setUp(await fs.node("link"), { flags: READ })).toBe(-ELOOP)
  })

  test("F8: nodes and handles that are not there, or of others, or forgotten", async () => {
    for (const unknown of [0, 99, 2 ** 40]) expect(await setUp(unknown)).toBe(-ENOENT)
    const other = await fs.node("other")
    const handle = await fs.open(other, 2)
    for (const wrong of [0, handle + 1, 2n ** 63n])
      expect(await setUp(other, { handle: wrong, offset: RANGE })).toBe(-EBADF)
    expect(await setUp(node, { handle, offset: RANGE })).toBe(-EBADF)
    expect(await setUp(1, { handle: await fs.open(1, 0, FUSE.OPENDIR), offset: RANGE })).toBe(-EBADF)
    await fs.forget(other, 1)
    expect(await setUp(other, { handle, offset: RANGE })).toBe(-ENOENT)
  })

  test.each<[string, Parameters<typeof remove>]>([
    ["none", [[], 0]],
    ["more than there are", [[[0, RANGE]], 2]],
    ["2^32 - 1 of them", [[[0, RANGE]], 2 ** 32 - 1]],
    ["more than fit in a page", [new Array(257).fill([0, RANGE])]],
    [
      "one outside, after one inside",
      [
        [
          [0, RANGE],
          [WINDOW, RANGE],
        ],
      ],
    ],
    ["half a range", [[[0, RANGE / 2]]]],
    ["no bytes", [[[0, 0]]]],
    ["what wraps", [[[RANGE, MAX_U64 - BigInt(RANGE) + 1n]]]],
  ])("F5: REMOVEMAPPING of %s", async (_, [parts, count]) => {
    expect(await remove(parts, count)).toBe(-EINVAL)
  })

  test("F6: requests that are too short", async () => {
    for (const length of [0, 8, 39])
      expect((await fs.request(FUSE.SETUPMAPPING, node, [new Uint8Array(length)])).error).toBe(-EINVAL)
    for (const length of [0, 3, 4 + REMOVEMAPPING_ONE_SIZE - 1])
      expect((await fs.request(FUSE.REMOVEMAPPING, node, [new Uint8Array(length).fill(1, 0, 1)])).error).toBe(
        -EINVAL,
      )
  })
})

test("F13: what is shared read-only is mapped for reading alone", async () => {
  const attached = await share.attach({ dax: DAX, readOnly: true })
  const node = await attached.fs.node("file")
  const handle = await attached.fs.open(node)
  for (const flags of [WRITE, READ | WRITE])
    for (const by of [{}, { handle }]) expect(await setUp(node, { ...by, flags }, attached.fs)).toBe(-EROFS)
  expect(attached.device.mappedRanges).toBe(0)
  expect(await setUp(node, { flags: READ }, attached.fs)).toBe(0)
  expect(seen(0, 3, attached.device)).toBe("012")
})

test.skipIf(isRoot)("F16: a file that this user may not write is not mapped for writing", async () => {
  chmodSync(share.path("file"), 0o400)
  const node = await fs.node("file")
  expect(await setUp(node)).toBe(-EACCES)
  expect(await setUp(node, { flags: READ })).toBe(0)
})

test("F6: before INIT, and without a window, there are no mappings", async () => {
  const early = await share.attach({ dax: DAX, init: false })
  expect(await setUp(1, {}, early.fs)).toBe(-EIO)
  await early.fs.init()
  expect(await setUp(1, {}, early.fs)).toBe(-ENOSYS)
})
