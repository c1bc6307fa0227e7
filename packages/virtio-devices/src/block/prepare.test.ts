// A disk whose content comes over a network: reads wait for it, and what does not come is an I/O error.
import { afterEach, expect, test } from "vitest"
import { direct, MockDriver, overMmio, overVhostUser } from "../testing/index.js"
import type { BlockBackend } from "./backend.js"
import { concatBackend } from "./concat-backend.js"
import * as defs from "./defs.js"
import { BlockDevice } from "./device.js"
import { memoryBackend } from "./memory-backend.js"
import { BlockDriver } from "./testing.js"

const closers: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** A disk that is all ones once it was asked for. */
function arriving(arrive: (offset: number, length: number) => Promise<void> | undefined) {
  const backend: BlockBackend = memoryBackend(1 << 20)
  const asked: [number, number][] = []
  backend.prepare = (offset, length) => {
    asked.push([offset, length])
    return arrive(offset, length)
  }
  return { backend, asked }
}

async function attach(backend: BlockBackend, over = direct) {
  const driver = await MockDriver.attach(new BlockDevice(backend), over)
  closers.push(
    () => driver[Symbol.asyncDispose](),
    () => backend.close(),
  )
  return { driver, block: new BlockDriver(driver) }
}

const read = (block: BlockDriver, sector: number) =>
  block.request(defs.VIRTIO_BLK_T_IN, sector, { writable: [4096] })

test.each([direct, overVhostUser, overMmio])("a read waits for its content over $name", async over => {
  let arrive: () => void = () => undefined
  const coming = new Promise<void>(resolve => {
    arrive = resolve
  })
  const { backend, asked } = arriving(() => coming)
  const { block } = await attach(backend, over)
  const reading = read(block, 8)
  const later = new Promise(resolve => setTimeout(resolve, 20, "later"))
  expect(await Promise.race([reading, later])).toBe("later")
  arrive()
  expect((await reading).status).toBe(defs.VIRTIO_BLK_S_OK)
  expect(asked).toEqual([[4096, 4096]])
})

test("content that does not come is an I/O error, and the next read is asked anew", async () => {
  let isLost = true
  const { backend } = arriving(() => (isLost ? Promise.reject(new Error("lost")) : undefined))
  const { block } = await attach(backend)
  expect((await read(block, 0)).status).toBe(defs.VIRTIO_BLK_S_IOERR)
  isLost = false
  expect((await read(block, 0)).status).toBe(defs.VIRTIO_BLK_S_OK)
})

test("a disk of parts asks those that a range has something of, each for its own", async () => {
  const first = arriving(() => Promise.resolve())
  const second = arriving(() => undefined)
  const { block } = await attach(
    concatBackend([
      { source: first.backend, size: 1 << 20 },
      { source: memoryBackend(4096), size: 4096 },
      { source: second.backend, size: 1 << 20 },
    ]),
  )
  const over = { writable: [3 * 4096] }
  expect((await block.request(defs.VIRTIO_BLK_T_IN, 2040, over)).status).toBe(defs.VIRTIO_BLK_S_OK)
  expect([first.asked, second.asked]).toEqual([[[(1 << 20) - 4096, 4096]], [[0, 4096]]])
})
