import { execFileSync } from "node:child_process"
import {
  closeSync,
  constants as fsConstants,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { constants, tmpdir } from "node:os"
import { join } from "node:path"
import { IO_WRITE, IoBatch } from "@ts-vmm/native"
import { afterEach, describe, expect, test } from "vitest"
import { direct, MockDriver, overMmio, overVhostUser } from "../testing/index.js"
import { type BlockBackend, ExtentList } from "./backend.js"
import { concatBackend } from "./concat-backend.js"
import * as defs from "./defs.js"
import { BlockDevice } from "./device.js"
import { openFileBackend } from "./file-backend.js"
import { memoryBackend } from "./memory-backend.js"
import { BlockDriver, rangeSegment, requestHeader } from "./testing.js"

const OK = defs.VIRTIO_BLK_S_OK
const IOERR = defs.VIRTIO_BLK_S_IOERR
const closers: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

function folder(base = tmpdir()): string {
  const path = mkdtempSync(join(base, "block-"))
  closers.push(() => rmSync(path, { recursive: true, force: true }))
  return path
}

function image(bytes: Uint8Array, base?: string): string {
  const path = join(folder(base), "disk.img")
  writeFileSync(path, bytes)
  return path
}

function kept<B extends BlockBackend>(backend: B): B {
  closers.push(() => backend.close())
  return backend
}

async function attach(backend: BlockBackend, over = direct) {
  const device = new BlockDevice(kept(backend))
  const driver = await MockDriver.attach(device, over)
  closers.push(() => driver[Symbol.asyncDispose]())
  return { device, driver, block: new BlockDriver(driver) }
}

const pattern = (length: number, seed = 1) =>
  Uint8Array.from({ length }, (_, i) => (i * seed + (i >> 8)) & 0xff)
const codeOf = (action: () => unknown) => {
  try {
    action()
  } catch (error) {
    return (error as { code?: string }).code
  }
  return undefined
}

describe("file backend", () => {
  test.each([direct, overVhostUser, overMmio])("reads and writes an image over $name", async over => {
    const path = image(pattern(1 << 20))
    const { block } = await attach(openFileBackend(path), over)
    const read = await block.request(defs.VIRTIO_BLK_T_IN, 8, { writable: [4096] })
    expect(read).toMatchObject({ status: OK, data: pattern(1 << 20).slice(4096, 8192) })
    const data = pattern(8192, 3)
    expect((await block.request(defs.VIRTIO_BLK_T_OUT, 16, { data: [data] })).status).toBe(OK)
    expect((await block.request(defs.VIRTIO_BLK_T_FLUSH, 0)).status).toBe(OK)
    expect(readFileSync(path).subarray(8192, 16384)).toEqual(Buffer.from(data))
    const zeroes = await block.request(defs.VIRTIO_BLK_T_WRITE_ZEROES, 0, { data: [rangeSegment(16, 8)] })
    expect(zeroes.status).toBe(OK)
    expect(
      readFileSync(path)
        .subarray(8192, 12288)
        .every(byte => byte === 0),
    ).toBe(true)
  })

  test.each([direct, overVhostUser, overMmio])(
    "requests too large to be done at once go through the pool over $name",
    async over => {
      const path = image(new Uint8Array(4 << 20))
      const { block } = await attach(openFileBackend(path), over)
      const data = pattern((1 << 20) + 1024, 5)
      expect((await block.request(defs.VIRTIO_BLK_T_OUT, 7, { data: [data] })).status).toBe(OK)
      const read = await block.request(defs.VIRTIO_BLK_T_IN, 7, { writable: [data.length] })
      expect(read.status).toBe(OK)
      expect(Buffer.compare(read.data, data)).toBe(0)
      expect(Buffer.compare(readFileSync(path).subarray(7 * 512, 7 * 512 + data.length), data)).toBe(0)
    },
  )

  describe("past the page cache", () => {
    /** tmpfs of older kernels has no O_DIRECT. */
    function openDirect(path: string) {
      try {
        return openFileBackend(path, { direct: true })
      } catch (error) {
        if ((error as { code?: string }).code === "unsupported") return undefined
        throw error
      }
    }

    test.each([overVhostUser, overMmio])("requests are served, aligned or not, over $name", async over => {
      const bytes = pattern(1 << 20)
      const path = image(bytes)
      const backend = openDirect(path)
      if (!backend) return
      const flags = /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${backend.direct!.fd}`, "utf8"))
      expect(Number.parseInt(flags![1]!, 8) & fsConstants.O_DIRECT).not.toBe(0)
      const { block, driver } = await attach(backend, over)
      const at = (alignment: number, skip = 0) => driver.alloc(8192 + skip, alignment) + skip
      for (const [sector, address] of [
        [8, at(4096)],
        [8, at(4096, 512)],
        [9, at(4096)],
        [9, at(4096, 16)],
      ] as const) {
        const target = driver.writable(8192, address)
        const header = driver.readable(requestHeader(defs.VIRTIO_BLK_T_IN, sector))
        expect((await block.send([header], [target])).status).toBe(OK)
        expect(Buffer.compare(target.bytes(), bytes.subarray(sector * 512, sector * 512 + 8192))).toBe(0)
        const data = pattern(8192, 7 + sector)
        bytes.set(data, sector * 512)
        const source = driver.readable(data, address)
        const write = driver.readable(requestHeader(defs.VIRTIO_BLK_T_OUT, sector))
        expect((await block.send([write, source], [])).status).toBe(OK)
      }
      expect(Buffer.compare(readFileSync(path), bytes)).toBe(0)
    })

    test("such a disk is no part of another", () => {
      const backend = openDirect(image(new Uint8Array(8192)))
      if (!backend) return
      expect(codeOf(() => concatBackend([{ source: kept(backend), size: 8192 }]))).toBe("part")
    })
  })

  test("discard gives space back to the host", async () => {
    const path = image(pattern(1 << 20))
    const { block } = await attach(openFileBackend(path))
    const before = statSync(path).blocks
    expect(
      (await block.request(defs.VIRTIO_BLK_T_DISCARD, 0, { data: [rangeSegment(0, 1024)] })).status,
    ).toBe(OK)
    expect(statSync(path).blocks).toBeLessThan(before)
    expect(statSync(path).size).toBe(1 << 20)
  })

  test("a write that the host cannot do is told with its errno; a refused one and a read are not", async () => {
    const full = openSync("/dev/full", "r+")
    const errors: number[] = []
    const backend: BlockBackend = {
      ...{ size: 1 << 20, readOnly: false, inMemory: false, discard: false, flushFds: [] },
      locate: (offset, length, into) => into.add(full, offset, length),
      close: () => closeSync(full),
    }
    const device = new BlockDevice(kept(backend), { onWriteError: errno => errors.push(errno) })
    const driver = await MockDriver.attach(device, direct)
    closers.push(() => driver[Symbol.asyncDispose]())
    const block = new BlockDriver(driver)
    const write = (sector: number) => block.request(defs.VIRTIO_BLK_T_OUT, sector, { data: [pattern(512)] })
    expect((await write(1 << 20)).status).toBe(IOERR)
    expect(errors).toEqual([])
    expect((await write(0)).status).toBe(IOERR)
    expect(errors).toEqual([constants.errno.ENOSPC])
    expect((await block.request(defs.VIRTIO_BLK_T_IN, 0, { writable: [512] })).status).toBe(OK)
    expect(errors).toHaveLength(1)
  })

  test("without VIRTIO_BLK_F_FLUSH a write is durable when it completes", async () => {
    const path = image(new Uint8Array(1 << 16))
    const device = new BlockDevice(kept(openFileBackend(path)))
    const features = (offered: bigint) => offered & ~defs.VIRTIO_BLK_F_FLUSH
    const driver = await MockDriver.attach(device, direct, { features })
    closers.push(() => driver[Symbol.asyncDispose]())
    const result = await new BlockDriver(driver).request(defs.VIRTIO_BLK_T_OUT, 0, { data: [pattern(512)] })
    expect(result.status).toBe(OK)
    expect(readFileSync(path).subarray(0, 512)).toEqual(Buffer.from(pattern(512)))
  })

  test("B4: the fd of a read-only disk lets nobody write, whatever the device would do", () => {
    const path = image(pattern(4096))
    const parts = [{ source: path, size: 4096 }]
    for (const backend of [
      openFileBackend(path, { readOnly: true }),
      concatBackend(parts),
      memoryBackend(4096, { readOnly: true }),
    ]) {
      const extents = new ExtentList()
      kept(backend).locate(0, 512, extents)
      const batch = new IoBatch(1, 1)
      batch.setSegment(0, 0, 0, 512)
      batch.setOp(0, IO_WRITE, extents.fds[0]!, extents.offsets[0]!, 0, 1)
      batch.runSync([new ArrayBuffer(512)], 1)
      expect(batch.results[0]).toBe(-constants.errno.EBADF)
      backend.close()
    }
    expect(readFileSync(path)).toEqual(Buffer.from(pattern(4096)))
  })

  test.each([direct, overVhostUser, overMmio])(
    "B6: an image truncated under the device gives IOERR, and later requests work over $name",
    async over => {
      const path = image(pattern(1 << 20))
      const { block, device } = await attach(openFileBackend(path), over)
      truncateSync(path, 4096)
      expect((await block.request(defs.VIRTIO_BLK_T_IN, 1024, { writable: [4096] })).status).toBe(IOERR)
      expect((await block.request(defs.VIRTIO_BLK_T_IN, 7, { writable: [1024] })).status).toBe(IOERR)
      expect((await block.request(defs.VIRTIO_BLK_T_IN, 0, { writable: [4096] })).status).toBe(OK)
      expect(device.counters.failed).toBe(2)
    },
  )

  test("B6: a full file system gives IOERR, and later requests work", async ({ skip }) => {
    const mount = folder()
    try {
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], { stdio: "ignore" })
    } catch {
      skip("needs root to mount a small tmpfs")
    }
    closers.push(() => void execFileSync("umount", ["-l", mount]))
    const path = join(mount, "disk.img")
    writeFileSync(path, "")
    truncateSync(path, 1 << 20)
    const { block } = await attach(openFileBackend(path))
    const statuses = []
    for (let i = 0; i < 8; i++) {
      statuses.push((await block.request(defs.VIRTIO_BLK_T_OUT, i * 64, { data: [pattern(32768)] })).status)
    }
    expect(statuses[0]).toBe(OK)
    expect(statuses.at(-1)).toBe(IOERR)
    expect((await block.request(defs.VIRTIO_BLK_T_IN, 0, { writable: [512] })).data).toEqual(pattern(512))
    expect((await block.request(defs.VIRTIO_BLK_T_DISCARD, 0, { data: [rangeSegment(0, 64)] })).status).toBe(
      OK,
    )
    expect((await block.request(defs.VIRTIO_BLK_T_OUT, 512, { data: [pattern(4096)] })).status).toBe(OK)
  })

  test.each([
    ["qcow2", Buffer.from("514649fb00000003000000000000000000000000", "hex")],
    ["vmdk", Buffer.from("KDMV")],
    ["gzip", Buffer.from("1f8b08", "hex")],
  ])("B7, B8: an image that begins like %s is raw bytes like any other", async (_, magic) => {
    const bytes = pattern(1 << 16)
    bytes.set(magic)
    const { block, device } = await attach(openFileBackend(image(bytes)))
    expect(device.capacity).toBe(1 << 16)
    expect((await block.request(defs.VIRTIO_BLK_T_IN, 0, { writable: [512] })).data).toEqual(
      bytes.slice(0, 512),
    )
  })

  test("B9: a second writer is refused, readers share, and the lock ends with the backend", () => {
    const path = image(pattern(4096))
    const first = openFileBackend(path)
    expect(codeOf(() => openFileBackend(path))).toBe("locked")
    expect(codeOf(() => openFileBackend(path, { readOnly: true }))).toBe("locked")
    kept(openFileBackend(path, { lock: false }))
    first.close()
    const readers = [1, 2].map(() => kept(openFileBackend(path, { readOnly: true })))
    expect(codeOf(() => openFileBackend(path))).toBe("locked")
    for (const reader of readers) reader.close()
    kept(openFileBackend(path))
  })

  test("what is not a disk is refused with a code", () => {
    const path = folder()
    execFileSync("mkfifo", [join(path, "fifo")])
    expect(codeOf(() => openFileBackend(join(path, "missing")))).toBe("open")
    expect(codeOf(() => openFileBackend(path, { readOnly: true }))).toBe("not-a-disk")
    expect(codeOf(() => openFileBackend(join(path, "fifo"), { readOnly: true }))).toBe("not-a-disk")
    expect(codeOf(() => openFileBackend("/dev/null"))).toBe("not-a-disk")
  })

  test.each([direct, overVhostUser, overMmio])(
    "a grown image is offered with a configuration interrupt over $name",
    async over => {
      const path = image(pattern(1 << 16))
      const { block, device, driver } = await attach(openFileBackend(path), over)
      truncateSync(path, 1 << 17)
      device.updateCapacity()
      await driver.port.settle()
      expect(driver.configInterrupts).toBe(1)
      expect(device.capacity).toBe(1 << 17)
      expect((await block.request(defs.VIRTIO_BLK_T_IN, 255, { writable: [512] })).status).toBe(OK)
      device.updateCapacity()
      await driver.port.settle()
      expect(driver.configInterrupts).toBe(1)
    },
  )
})

describe("concatenated backend", () => {
  test.each([direct, overVhostUser, overMmio])("is one disk, with gaps of zeroes, over $name", async over => {
    const [a, b] = [pattern(3000, 3), pattern(10_000, 5)]
    const { block, device } = await attach(
      concatBackend([
        { source: image(a), size: 4096 },
        { source: image(b), size: 8192 },
        { source: image(pattern(512, 7)), size: 1024 },
      ]),
      over,
    )
    const expected = new Uint8Array(4096 + 8192 + 1024)
    expected.set(a, 0)
    expected.set(b.subarray(0, 8192), 4096)
    expected.set(pattern(512, 7), 12288)
    expect(device.capacity).toBe(expected.length)
    expect(device.features & defs.VIRTIO_BLK_F_RO).not.toBe(0n)
    const whole = await block.request(defs.VIRTIO_BLK_T_IN, 0, { writable: [100, 5000, 8212] })
    expect(whole.status).toBe(OK)
    expect(Buffer.compare(whole.data, expected)).toBe(0)
    for (let sector = 0; sector < expected.length / 512; sector++) {
      const one = await block.request(defs.VIRTIO_BLK_T_IN, sector, { writable: [512] })
      expect(Buffer.compare(one.data, expected.subarray(sector * 512, sector * 512 + 512))).toBe(0)
    }
    expect(
      (await block.request(defs.VIRTIO_BLK_T_IN, expected.length / 512, { writable: [512] })).status,
    ).toBe(IOERR)
  })

  test("a request across hundreds of small parts is one request", async () => {
    const bytes = pattern(512, 9)
    const path = image(bytes)
    const { block } = await attach(
      concatBackend(Array.from({ length: 400 }, () => ({ source: path, size: 512 }))),
    )
    const result = await block.request(defs.VIRTIO_BLK_T_IN, 0, { writable: [512 * 400] })
    expect(result.status).toBe(OK)
    for (let i = 0; i < 400; i++) expect(result.data[i * 512 + 77]).toBe(bytes[77])
  })

  test("parts that cannot be are refused, and what was opened is closed", () => {
    const inner = memoryBackend(512)
    expect(codeOf(() => concatBackend([]))).toBe("part")
    expect(codeOf(() => concatBackend([{ source: inner, size: 100 }]))).toBe("part")
    expect(codeOf(() => concatBackend([{ source: "/nonexistent/part", size: 512 }]))).toBe("open")
    expect(
      codeOf(() => concatBackend(Array.from({ length: 600 }, () => ({ source: inner, size: 512 })))),
    ).toBe("part")
    expect(inner.bytes.length).toBe(0)
  })
})
