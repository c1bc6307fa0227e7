import { createRequire } from "node:module"
import { Worker } from "node:worker_threads"
import { closeFd, signal } from "@ts-vmm/native"
import type { DevicePart } from "../../device.js"
import { VhostUserError } from "../errors.js"
import {
  decodeError,
  decodeReason,
  type FromThread,
  type OrderArguments,
  type OrderName,
  type OrderResult,
  type ThreadStart,
  type ToThread,
} from "./orders.js"

/** What a thread does without being asked. */
export interface ThreadEvents {
  /** Its part of the device broke. */
  broke(reason: Error): void
  /** It ended without having been asked to: its rings are lost. */
  died(error: VhostUserError): void
}

export type RingFdOrder = "setKick" | "setCall" | "setErr"

/** Requests leave little behind, and that dies at once: more room for it only costs memory, 5 MiB with V8's default. */
const YOUNG_GENERATION_MIB = 1

interface Waiting {
  resolve(value: unknown): void
  reject(error: Error): void
}

/**
 * One thread with some of a device's rings, seen from the thread that has the connection.
 *
 * The fds of its rings are kept here and only lent to it: however it ends, none is lost, and a number that it still uses
 * never comes to be another file's.
 */
export class QueueThread {
  /** Settles when the thread is gone, and with it all that it was given. */
  readonly ended: Promise<void>
  readonly #worker: Worker
  readonly #part: DevicePart
  readonly #events: ThreadEvents
  readonly #waiting = new Map<number, Waiting>()
  readonly #fds = new Map<string, number>()
  #nextId = 0
  #failed = false
  #closing = false
  #ended = false
  /** Why it died. */
  #death: Error | undefined

  /**
   * @param script see {@link threadScript}
   * @param part closed when the thread has ended
   */
  constructor(script: string, part: DevicePart, start: Omit<ThreadStart, "part">, events: ThreadEvents) {
    this.#part = part
    this.#events = events
    const workerData: ThreadStart = { ...start, part: part.data }
    const resourceLimits = { maxYoungGenerationSizeMb: YOUNG_GENERATION_MIB }
    this.#worker = new Worker(script, { workerData, name: "vhost-user rings", execArgv: [], resourceLimits })
    this.#worker.on("message", (message: FromThread) => this.#message(message))
    this.#worker.on("error", error => {
      this.#death = error
    })
    this.ended = new Promise(resolve => {
      this.#worker.on("exit", () => {
        this.#exited()
        resolve()
      })
    })
  }

  /** Its part of the device is in DEVICE_NEEDS_RESET, or can never be served again. */
  get failed(): boolean {
    return this.#failed
  }

  /** @returns rejected with a VhostUserError as the order says, and with `internal` when the thread is gone */
  ask<Name extends OrderName>(order: Name, ...args: OrderArguments<Name>): Promise<OrderResult<Name>> {
    if (this.#ended) return Promise.reject(this.#gone())
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: value => resolve(value as OrderResult<Name>), reject })
      this.#post({ order, id, args })
    })
  }

  /** Gives ring `index` an fd, or -1, in place of the one before. */
  async setFd(order: RingFdOrder, index: number, fd: number): Promise<void> {
    const key = `${order} ${index}`
    const before = this.#fds.get(key)
    if (!this.#ended) this.#keep(key, fd)
    else if (fd >= 0) closeFd(fd)
    try {
      await this.ask(order, index, fd)
    } finally {
      if (before !== undefined) closeFd(before)
    }
  }

  /** As the order; the ring's kick fd goes with it. */
  async stop(index: number): Promise<number> {
    const base = await this.ask("stop", index)
    this.#drop(`setKick ${index}`)
    return base
  }

  /** As the order; all fds go with it. */
  async reset(): Promise<void> {
    await this.ask("reset")
    this.#dropAll()
  }

  /** Has it take nothing more from its rings: another part of the device broke. */
  halt(): void {
    this.#post({ order: "halt" })
  }

  /** Has it end, once no I/O of it works on guest memory. Idempotent. */
  close(): void {
    if (this.#closing) return
    this.#closing = true
    this.#post({ order: "close" })
  }

  #post(message: ToThread): void {
    this.#worker.postMessage(message)
  }

  #message(message: FromThread): void {
    if ("said" in message) {
      this.#part.heard(message.said)
      return
    }
    if ("broke" in message) {
      this.#failed = true
      this.#events.broke(decodeReason(message.broke))
      return
    }
    const waiting = this.#waiting.get(message.id)
    this.#waiting.delete(message.id)
    this.#failed = message.failed
    if (message.error) waiting?.reject(decodeError(message.error))
    else waiting?.resolve(message.value)
  }

  #exited(): void {
    this.#ended = true
    if (!this.#closing) this.#died()
    for (const { reject } of this.#waiting.values()) reject(this.#gone())
    this.#waiting.clear()
    this.#dropAll()
    this.#part.close()
  }

  #died(): void {
    this.#failed = true
    for (const [key, fd] of this.#fds) if (key.startsWith("setErr")) raise(fd)
    this.#events.died(this.#gone())
  }

  #gone(): VhostUserError {
    const why = this.#death ? `: ${this.#death.message}` : ""
    return new VhostUserError("internal", `the thread that serves the rings ended${why}`, {
      cause: this.#death,
    })
  }

  #keep(key: string, fd: number): void {
    if (fd >= 0) this.#fds.set(key, fd)
    else this.#fds.delete(key)
  }

  #drop(key: string): void {
    const fd = this.#fds.get(key)
    this.#fds.delete(key)
    if (fd !== undefined) closeFd(fd)
  }

  #dropAll(): void {
    for (const key of [...this.#fds.keys()]) this.#drop(key)
  }
}

function raise(fd: number): void {
  try {
    signal(fd)
  } catch {
    // The reader is gone: nobody is left to tell.
  }
}

/**
 * The built script of a thread, found by the package's name, so that a program that bundles this one finds it as well.
 *
 * @throws VhostUserError `internal` when it is missing
 */
export function threadScript(): string {
  try {
    return createRequire(import.meta.url).resolve("@ts-vmm/virtio-devices/queue-thread")
  } catch (cause) {
    throw new VhostUserError("internal", "the script of threads is missing: the package is not built", {
      cause,
    })
  }
}
