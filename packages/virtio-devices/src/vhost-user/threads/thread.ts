/** The script of a thread that serves some of a device's rings: see threaded-rings.ts. */
import { type MessagePort, parentPort, workerData } from "node:worker_threads"
import { makeBlockPart } from "../../block/part.js"
import type { BlockPartData } from "../../block/threads.js"
import { countInto } from "../../shared-counters.js"
import { TransportCounters } from "../../transport/counters.js"
import { DeviceHost } from "../device-host.js"
import {
  encodeError,
  encodeReason,
  type FromThread,
  type Order,
  THREAD_COUNTER_NAMES,
  type ThreadStart,
  type ToThread,
} from "./orders.js"

/** Lets fds of rings be: they are the other side's to close. */
const LEND = () => undefined

/** The side of a `QueueThread` that is the thread. */
class ServingThread {
  readonly #port: MessagePort
  readonly #device: ReturnType<typeof makeBlockPart>
  readonly #host: DeviceHost

  constructor(port: MessagePort, { part, options, counters: cells }: ThreadStart) {
    this.#port = port
    const counters = new TransportCounters()
    countInto(counters, THREAD_COUNTER_NAMES, cells)
    this.#device = makeBlockPart(part as BlockPartData, said => this.#say({ said }))
    const events = {
      // The other side tells the front end, once for all threads.
      configChanged: () => undefined,
      failed: (reason: Error) => this.#say({ broke: encodeReason(reason) }),
    }
    this.#host = new DeviceHost(this.#device, options, events, counters, LEND)
    port.on("message", (message: ToThread) => void this.#take(message))
  }

  async #take(message: ToThread): Promise<void> {
    if (message.order === "halt") this.#host.halt()
    else if (message.order === "close") await this.#close()
    else await this.#answer(message)
  }

  async #answer(order: Order): Promise<void> {
    const { id } = order
    try {
      const value = await this.#carryOut(order)
      this.#say({ id, value, failed: this.#host.failed })
    } catch (error) {
      this.#say({ id, error: encodeError(error), failed: this.#host.failed })
    }
  }

  #carryOut({ order, args }: Order): unknown {
    if (order === "changed") return this.#device.updateCapacity()
    // Arguments are those that `QueueThread.ask` was called with, and so are the order's.
    return (this.#host[order] as (...args: readonly unknown[]) => unknown).call(this.#host, ...args)
  }

  async #close(): Promise<void> {
    this.#host.close()
    await this.#device.idle()
    process.exit()
  }

  #say(message: FromThread): void {
    this.#port.postMessage(message)
  }
}

if (parentPort) new ServingThread(parentPort, workerData as ThreadStart)
