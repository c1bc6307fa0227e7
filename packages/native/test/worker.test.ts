import { execFile } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { Worker } from "node:worker_threads"
import { expect, test, vi } from "vitest"
import * as native from "../src/index.js"
import { countFds, countMaps } from "./support/process.js"

const ADDON = fileURLToPath(new URL("../build/Release/tsvmm_native.node", import.meta.url))

/** A Worker with the raw addon as `native`; `workerData` is `data`. */
function startWorker(code: string, data: unknown): Worker {
  const source = `
    const { parentPort, workerData: data } = require("node:worker_threads")
    const native = require(${JSON.stringify(ADDON)})
    native.setErrorClass(class extends Error { constructor(errno) { super("errno " + errno); this.errno = errno } })
    ${code}`
  return new Worker(source, { eval: true, workerData: data })
}

/** What a Worker says at its end. Both events may come in one turn, so each is listened for from the beginning. */
async function lastWord(worker: Worker): Promise<unknown> {
  const [[message]] = await Promise.all([once(worker, "message"), once(worker, "exit")])
  return message
}

test("a Worker maps the same memory again by its fd and sees atomic stores", async () => {
  using memory = native.Mapping.create({ name: "threads", size: 4096 })
  const words = new Int32Array(memory.buffer)
  const worker = startWorker(
    `const mapping = native.mapFile(data.fd, 0, 4096, true, false, true)
     const words = new Int32Array(mapping.buffer)
     while (Atomics.load(words, 0) !== 1) continue
     Atomics.store(words, 1, 42)
     mapping.close()
     parentPort.postMessage(mapping.buffer.byteLength)`,
    { fd: memory.fd },
  )

  Atomics.store(words, 0, 1)

  expect(await lastWord(worker)).toBe(0)
  expect(Atomics.load(words, 1)).toBe(42)
  expect(countMaps("threads")).toBe(1)
})

test("errors of a Worker are of the Worker's own class", async () => {
  const worker = startWorker(
    "try { native.closeFd(1000000) } catch (error) { parentPort.postMessage(error.errno) }",
    null,
  )

  expect(await lastWord(worker)).toBe(9)
})

test("a Worker that is ended in the middle of a call that fails takes nobody along", async () => {
  // In a process of its own, which would end by SIGABRT.
  const code = `
    const { once } = require("node:events")
    const { Worker } = require("node:worker_threads")
    const body = \`
      const native = require(${JSON.stringify(ADDON)})
      native.setErrorClass(class extends Error {})
      require("node:worker_threads").parentPort.postMessage("ready")
      for (;;) try { native.closeFd(1000000) } catch { continue }\`
    async function main() {
      for (let round = 0; round < 10; round++) {
        const worker = new Worker(body, { eval: true })
        await once(worker, "message")
        await worker.terminate()
      }
      console.log("still here")
    }
    main()`
  const { stdout } = await promisify(execFile)(process.execPath, ["-e", code])
  expect(stdout).toBe("still here\n")
})

test("a Worker that ends with everything open leaves nothing behind", async () => {
  // The first Worker makes Node open a few fds for good.
  await once(startWorker("", null), "exit")
  const before = countFds()
  const event = native.eventFd()

  for (let round = 0; round < 3; round++) {
    const worker = startWorker(
      `global.mapping = native.createMapping("left", 1 << 20, true)
       global.view = new Uint8Array(mapping.buffer).fill(1)
       global.poller = new native.Poller(data.event, 1, () => undefined)
       parentPort.on("message", () => undefined)
       parentPort.postMessage("ready")`,
      { event },
    )
    await once(worker, "message")
    expect(countMaps("left")).toBe(1)
    await worker.terminate()
  }

  native.closeFd(event)
  await vi.waitFor(() => expect(countFds()).toBe(before), { timeout: 10_000 })
  expect(countMaps("left")).toBe(0)
})

test.each([false, true])(
  "a Worker that is terminated while I/O runs unmaps only afterwards, through io_uring: %s",
  async waits => {
    for (let round = 0; round < 5; round++) {
      const worker = startWorker(
        `const fs = require("node:fs")
       const size = 8 << 20
       const file = fs.openSync(process.execPath, "r")
       const mapping = native.createMapping("flight", size, true)
       const rows = new ArrayBuffer(16 * 16 + 16 * 16 + 16 * 24)
       for (let i = 0; i < 16; i++) {
         new Int32Array(rows, i * 16, 4).set([0, file, i, 1])
         new Float64Array(rows, 16 * 32 + i * 24, 3).set([0, 0, size])
       }
       // Each operation is followed by one, so that there are always eight and never more: a Worker ends when all have.
       const run = index => native.runAsync(rows, 16, 16, [mapping.buffer], [index], run, data.waits)
       for (let index = 0; index < 8; index++) run(index)
       parentPort.postMessage("running")
       setInterval(() => undefined, 1000)`,
        { waits },
      )
      await once(worker, "message")
      await worker.terminate()
    }

    await vi.waitFor(() => expect(countMaps("flight")).toBe(0), { timeout: 10_000 })
  },
)

test("H3: a fault in one thread marks that thread's mapping only", async () => {
  // A memfd without seals, by way of a mapping's fd, cannot be had; /proc gives a fresh file in memory.
  const { openSync, ftruncateSync, closeSync, mkdtempSync, rmSync } = await import("node:fs")
  const dir = mkdtempSync("/dev/shm/tsvmm-native-")
  const fd = openSync(`${dir}/file`, "w+")
  ftruncateSync(fd, 8192)
  using mine = native.Mapping.map({ fd, offset: 0, size: 8192, inMemory: true })
  const worker = startWorker(
    `const mapping = native.mapFile(data.fd, 0, 8192, true, false, true)
     require("node:fs").ftruncateSync(data.fd, 0)
     new Uint8Array(mapping.buffer)[4096]
     parentPort.postMessage(mapping.faulted)
     mapping.close()`,
    { fd },
  )

  expect(await lastWord(worker)).toBe(true)
  expect(mine.faulted).toBe(false)
  expect(new Uint8Array(mine.buffer)[0]).toBe(0)
  expect(mine.faulted).toBe(true)
  closeSync(fd)
  rmSync(dir, { recursive: true })
})
