import { once } from "node:events"
import { Worker } from "node:worker_threads"

/** A case that blocks the thread this long is killed with the process: nothing else can end it. */
const STALL_MS = 60_000

const SOURCE = `
const { parentPort, workerData } = require("node:worker_threads")
const { writeSync } = require("node:fs")
const beat = new Int32Array(workerData.shared)
let last = -1
let since = performance.now()
setInterval(() => {
  const now = Atomics.load(beat, 0)
  const armed = Atomics.load(beat, 1) === 1
  if (now !== last || !armed) {
    last = now
    since = performance.now()
  } else if (performance.now() - since > workerData.stallMs) {
    writeSync(2, "fuzz " + workerData.name + ": case " + now + " of seed " + workerData.seed + " hangs\\n")
    process.kill(process.pid, "SIGKILL")
  }
}, 500)
parentPort.postMessage("watching")
`

/** Ends the process, with a note, when a case never gives the thread back. */
export class Watchdog {
  readonly #beat = new Int32Array(new SharedArrayBuffer(8))
  readonly #worker: Worker

  constructor(name: string, seed: number) {
    const workerData = { shared: this.#beat.buffer, name, seed, stallMs: STALL_MS }
    this.#worker = new Worker(SOURCE, { eval: true, workerData })
  }

  /** Resolves once it watches: until then its thread opens files, which a case that counts them must not see. */
  async ready(): Promise<void> {
    await once(this.#worker, "message")
    this.#worker.unref()
  }

  /** Case `index` begins. */
  begins(index: number): void {
    Atomics.store(this.#beat, 0, index)
    Atomics.store(this.#beat, 1, 1)
  }

  /** It ended. */
  ended(): void {
    Atomics.store(this.#beat, 1, 0)
  }

  async close(): Promise<void> {
    await this.#worker.terminate()
  }
}
