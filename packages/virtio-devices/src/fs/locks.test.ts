import { closeSync, openSync, readdirSync } from "node:fs"
import { constants } from "node:os"
import { files } from "@ts-vmm/native"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { direct } from "../testing/direct.js"
import type { MockDriver } from "../testing/mock-driver.js"
import * as abi from "./host-abi.js"
import { FUSE, IN_HEADER } from "./protocol.js"
import { ShareUnderTest } from "./share-under-test.js"
import { type FuseAnswer, FuseDriver, u32, u64 } from "./testing.js"

const { EAGAIN, EBADF, EINTR, EINVAL, ENOLCK, ENOSYS } = constants.errno
const { F_RDLCK, F_WRLCK, F_UNLCK, LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN } = abi
const TO_THE_END = 2n ** 63n - 1n
const FLOCK = 1

interface Asked {
  readonly type: number
  readonly owner?: number
  readonly start?: bigint
  readonly end?: bigint
  readonly flags?: number
  readonly handle?: number
  readonly opcode?: number
}

let share: ShareUnderTest
let fs: FuseDriver
let node: number
let handle: number
beforeEach(async () => {
  share = new ShareUnderTest()
  share.put({ file: "0123456789" })
})
afterEach(async () => {
  share.checkOutside()
  await share[Symbol.asyncDispose]()
})

async function attach(options: { locks?: boolean; lockWaitMs?: number; readOnly?: boolean } = {}) {
  const attached = await share.attach({ locks: true, ...options })
  fs = attached.fs
  node = await fs.node("file")
  handle = await fs.open(node, options.readOnly ? 0 : 2)
  return attached
}

function parts({ type, owner = 1, start = 0n, end = TO_THE_END, flags = 0, handle: own = handle }: Asked) {
  return [u64(own), u64(owner), u64(start), u64(end), u32(type), u32(0), u32(flags), u32(0)]
}

async function lock(asked: Asked): Promise<number | undefined> {
  return (await fs.request(asked.opcode ?? FUSE.SETLK, node, parts(asked))).error
}

/** The lock that is in the way: type, first and last byte. */
async function whoHas(asked: Asked): Promise<readonly (number | bigint)[]> {
  const { error, body } = await fs.request(FUSE.GETLK, node, parts(asked))
  expect(error).toBe(0)
  return [body.getUint32(16, true), body.getBigUint64(0, true), body.getBigUint64(8, true)]
}

const flush = (owner: number) =>
  fs.request(FUSE.FLUSH, node, [u64(handle), u32(0), u32(0), u64(owner)]).then(({ error }) => error)

/** What a program of the host gets when it tries. */
function onHost<Result>(use: (fd: number) => Result): Result {
  const fd = openSync(share.path("file"), "r+")
  try {
    return use(fd)
  } finally {
    closeSync(fd)
  }
}

function rangeLock(fd: number, type: number, start = 0n, length = 0n): number {
  const flock = new DataView(new ArrayBuffer(abi.FLOCK_SIZE))
  flock.setInt16(abi.FLOCK.type, type, true)
  flock.setBigInt64(abi.FLOCK.start, start, true)
  flock.setBigInt64(abi.FLOCK.length, length, true)
  return files.fcntlLock(fd, abi.F_OFD_SETLK, new Uint8Array(flock.buffer))
}

const openFds = () => readdirSync("/proc/self/fd").length

describe("ranges", () => {
  test("the host is kept out of what the guest has, and of no more", async () => {
    await attach()
    expect(await lock({ type: F_WRLCK, start: 2n, end: 4n })).toBe(0)
    expect(onHost(fd => rangeLock(fd, F_RDLCK, 4n, 1n))).toBe(-EAGAIN)
    expect(onHost(fd => rangeLock(fd, F_WRLCK, 5n))).toBe(0)
    expect(await lock({ type: F_UNLCK, start: 4n, end: 4n })).toBe(0)
    expect(onHost(fd => rangeLock(fd, F_WRLCK, 4n))).toBe(0)
    expect(onHost(fd => rangeLock(fd, F_WRLCK, 3n))).toBe(-EAGAIN)
  })

  test("the guest is kept out of what the host has, and told where that is", async () => {
    await attach()
    const fd = openSync(share.path("file"), "r+")
    expect(rangeLock(fd, F_WRLCK, 3n, 4n)).toBe(0)
    expect(await lock({ type: F_RDLCK, start: 0n, end: 3n })).toBe(-EAGAIN)
    expect(await whoHas({ type: F_RDLCK })).toEqual([F_WRLCK, 3n, 6n])
    expect((await whoHas({ type: F_WRLCK, start: 7n }))[0]).toBe(F_UNLCK)
    closeSync(fd)
    expect(await lock({ type: F_WRLCK })).toBe(0)
  })

  test("owners in the guest keep each other out, whatever handle they use; readers share", async () => {
    await attach()
    const second = await fs.open(node, 2)
    expect(await lock({ type: F_RDLCK, owner: 1 })).toBe(0)
    expect(await lock({ type: F_RDLCK, owner: 2, handle: second })).toBe(0)
    expect(await lock({ type: F_WRLCK, owner: 2, handle: second })).toBe(-EAGAIN)
    expect(await flush(1)).toBe(0)
    expect(await lock({ type: F_WRLCK, owner: 2, handle: second })).toBe(0)
    expect(await lock({ type: F_WRLCK, owner: 2 })).toBe(0) // its own
  })

  test("closing, forgetting and the end of the session give back all there is", async () => {
    const { device } = await attach()
    const before = openFds()
    const isFree = () => onHost(fd => rangeLock(fd, F_WRLCK)) === 0
    for (const end of [() => flush(1), () => lock({ type: F_UNLCK }), () => fs.forget(node, 1)]) {
      expect(await lock({ type: F_WRLCK })).toBe(0)
      expect(isFree()).toBe(false)
      await end()
      expect(isFree()).toBe(true)
    }
    expect(openFds()).toBeLessThanOrEqual(before)
    node = await fs.node("file")
    handle = await fs.open(node, 2)
    expect(await lock({ type: F_WRLCK })).toBe(0)
    device.reset()
    expect(isFree()).toBe(true)
  })

  test("a lock of an open file, which no FLUSH ends, ends with it", async () => {
    await attach()
    const second = await fs.open(node, 2)
    expect(await lock({ type: F_WRLCK, owner: 9, handle: second })).toBe(0)
    await fs.release(node, handle)
    expect(onHost(fd => rangeLock(fd, F_WRLCK))).toBe(-EAGAIN)
    await fs.release(node, second)
    expect(onHost(fd => rangeLock(fd, F_WRLCK))).toBe(0)
  })

  test("a share that is read-only can be locked to read", async () => {
    await attach({ readOnly: true })
    expect(await lock({ type: F_RDLCK })).toBe(0)
    expect(onHost(fd => rangeLock(fd, F_WRLCK))).toBe(-EAGAIN)
    expect(await lock({ type: F_WRLCK, owner: 2 })).toBe(-EBADF)
  })
})

test("flock: of one open file, apart from ranges, seen on both sides, gone with it", async () => {
  await attach()
  expect(await lock({ type: F_WRLCK, flags: FLOCK })).toBe(0)
  expect(onHost(fd => files.flock(fd, LOCK_SH | LOCK_NB))).toBe(-EAGAIN)
  expect(onHost(fd => rangeLock(fd, F_WRLCK))).toBe(0)
  const second = await fs.open(node, 0)
  expect(await lock({ type: F_RDLCK, flags: FLOCK, handle: second })).toBe(-EAGAIN)
  await fs.release(node, handle)
  const fd = openSync(share.path("file"), "r")
  expect(files.flock(fd, LOCK_EX | LOCK_NB)).toBe(0)
  expect(await lock({ type: F_RDLCK, flags: FLOCK, handle: second })).toBe(-EAGAIN)
  expect(files.flock(fd, LOCK_UN)).toBe(0)
  expect(await lock({ type: F_RDLCK, flags: FLOCK, handle: second })).toBe(0)
  closeSync(fd)
})

describe("waiting", () => {
  let others: FuseDriver[]

  /** A request that nobody answers yet, each through a driver of its own: a {@link FuseDriver} has one at a time. */
  function wait(asked: Asked, driver: FuseDriver): Promise<FuseAnswer> {
    return driver.request(FUSE.SETLKW, node, parts(asked))
  }

  async function attachMany(options: { lockWaitMs?: number } = {}): Promise<void> {
    const device = share.device({ locks: true, queues: 3, ...options })
    const driver: MockDriver = await share.drive(device, direct, {})
    ;[fs, ...others] = [1, 2, 3].map(queue => new FuseDriver(driver, queue)) as [FuseDriver, ...FuseDriver[]]
    await fs.init()
    node = await fs.node("file")
    handle = await fs.open(node, 2)
  }

  test("what is free is there at once", async () => {
    await attachMany()
    expect((await wait({ type: F_WRLCK }, fs)).error).toBe(0)
    expect((await wait({ type: F_WRLCK, flags: FLOCK }, fs)).error).toBe(0)
  })

  test("who came first is served first, and the device goes on meanwhile", async () => {
    await attachMany()
    expect(await lock({ type: F_WRLCK, owner: 1 })).toBe(0)
    const order: number[] = []
    const waits = others.map((other, index) =>
      wait({ type: F_WRLCK, owner: index + 2 }, other).then(({ error }) => {
        order.push(index)
        return error
      }),
    )
    expect((await fs.getattr(node)).size).toBe(10)
    expect(order).toEqual([])
    await flush(1)
    expect(await waits[0]).toBe(0)
    expect(order).toEqual([0])
    await flush(2)
    expect(await waits[1]).toBe(0)
  })

  test("giving back is never waited for, also where others wait and with SETLKW", async () => {
    await attachMany()
    expect(await lock({ type: F_WRLCK, owner: 1 })).toBe(0)
    const waiting = wait({ type: F_WRLCK, owner: 2 }, others[0] as FuseDriver)
    expect((await wait({ type: F_UNLCK, owner: 3 }, others[1] as FuseDriver)).error).toBe(0)
    expect((await wait({ type: F_UNLCK, owner: 1 }, others[1] as FuseDriver)).error).toBe(0)
    expect((await waiting).error).toBe(0)
  })

  test("what the host gives back is found", async () => {
    await attachMany()
    const fd = openSync(share.path("file"), "r+")
    expect(rangeLock(fd, F_WRLCK)).toBe(0)
    expect(files.flock(fd, LOCK_EX)).toBe(0)
    const waits = [
      wait({ type: F_RDLCK, owner: 2 }, others[0] as FuseDriver),
      wait({ type: F_RDLCK, flags: FLOCK }, others[1] as FuseDriver),
    ]
    await fs.getattr(node)
    closeSync(fd)
    for (const answer of waits) expect((await answer).error).toBe(0)
  })

  test("an INTERRUPT ends the wait of its request and of no other", async () => {
    await attachMany()
    expect(await lock({ type: F_WRLCK, owner: 1 })).toBe(0)
    const [first, second] = others as [FuseDriver, FuseDriver]
    const message = first.message(FUSE.SETLKW, node, parts({ type: F_WRLCK, owner: 2 }))
    new DataView(message.buffer, message.byteOffset).setBigUint64(IN_HEADER.unique, 77n, true)
    const interrupted = first.raw(message)
    const stays = wait({ type: F_WRLCK, owner: 3 }, second)
    expect((await fs.request(FUSE.INTERRUPT, 0, [u64(77)])).used).toBe(0)
    expect((await interrupted).error).toBe(-EINTR)
    await flush(1)
    expect((await stays).error).toBe(0)
  })

  test("a wait has an end, and leaves neither a lock nor an fd", async () => {
    await attachMany({ lockWaitMs: 20 })
    const fd = openSync(share.path("file"), "r+")
    expect(rangeLock(fd, F_WRLCK)).toBe(0)
    const before = openFds()
    expect((await wait({ type: F_WRLCK, owner: 2 }, others[0] as FuseDriver)).error).toBe(-EINTR)
    expect(openFds()).toBe(before)
    closeSync(fd)
    expect(onHost(own => rangeLock(own, F_WRLCK))).toBe(0)
  })

  test("F8: a file that is closed meanwhile is waited for no longer", async () => {
    await attachMany()
    expect(await lock({ type: F_WRLCK, owner: 1 })).toBe(0)
    const other = await fs.open(node, 2)
    const waiting = wait({ type: F_WRLCK, owner: 2, handle: other }, others[0] as FuseDriver)
    await fs.release(node, other)
    expect((await waiting).error).toBe(-EBADF)
  })
})

describe("F15: hostile values", () => {
  test("ranges, types, handles and lengths that make no sense", async () => {
    await attach()
    for (const asked of [
      { type: 3 },
      { type: F_WRLCK, start: 5n, end: 4n },
      { type: F_WRLCK, start: -1n },
      { type: F_WRLCK, end: -1n },
      { type: 0xffff_ffff },
    ])
      for (const opcode of [FUSE.SETLK, FUSE.SETLKW, FUSE.GETLK])
        expect(await lock({ ...asked, opcode }), JSON.stringify([asked.type, opcode])).toBe(-EINVAL)
    for (const opcode of [FUSE.SETLK, FUSE.SETLKW])
      expect(await lock({ type: F_WRLCK, handle: 999, opcode })).toBe(-EBADF)
    for (const opcode of [FUSE.GETLK, FUSE.SETLK, FUSE.SETLKW, FUSE.FLUSH])
      expect((await fs.request(opcode, node, [u64(handle)])).error).toBe(-EINVAL)
    expect(await lock({ type: F_WRLCK, start: TO_THE_END, end: TO_THE_END })).toBe(0)
    expect((await fs.request(FUSE.FLUSH, node, [u64(999), u64(0), u64(1)])).error).toBe(-EBADF)
  })

  test("F9: owners without number are refused, and what they tried in vain leaves nothing", async () => {
    await attach()
    const fd = openSync(share.path("file"), "r+")
    rangeLock(fd, F_WRLCK)
    const before = openFds()
    for (let owner = 1; owner < 100; owner++) expect(await lock({ type: F_WRLCK, owner })).toBe(-EAGAIN)
    expect(openFds()).toBe(before)
    closeSync(fd)
    const results = new Set<number | undefined>()
    for (let owner = 1; owner <= 4097; owner++) results.add(await lock({ type: F_RDLCK, owner }))
    expect([...results]).toEqual([0, -ENOLCK])
  })

  test("without the option there are none", async () => {
    await attach({ locks: false })
    for (const opcode of [FUSE.GETLK, FUSE.SETLK, FUSE.SETLKW, FUSE.FLUSH])
      expect(await lock({ type: F_WRLCK, opcode })).toBe(-ENOSYS)
  })

  test("an option out of its range", () => {
    for (const lockWaitMs of [0, 0.5, 3_600_001, Number.NaN])
      expect(() => share.device({ locks: true, lockWaitMs })).toThrow(RangeError)
  })
})
