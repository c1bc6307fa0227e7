import { ok, strictEqual } from "node:assert"
import { closeSync, ftruncateSync, openSync, unlinkSync } from "node:fs"
import { setImmediate } from "node:timers/promises"
import {
  closeFd,
  eventFd,
  Mapping,
  pipe,
  receiveMessage,
  sendMessage,
  signal,
  socketPair,
} from "@ts-vmm/native"
import { SplitDriver } from "@ts-vmm/virtio-devices/testing"
import * as v from "@ts-vmm/virtio-devices/vhost-user"
import { mappingMemory } from "@ts-vmm/vm-memory/mmap"
import { join } from "./random.js"

/** What an fd that goes along with a message is. */
export const FD_KINDS = [
  "memory",
  "small",
  "shrinks",
  "file",
  "eventfd",
  "pipe",
  "write-pipe",
  "socket",
  "directory",
  "null",
] as const
export type FdSort = (typeof FD_KINDS)[number]

/** Pages of RAM in a session's memory file, and where the front end says it has it. */
export const RAM_SIZE = 0x1_0000
export const USER_ADDRESS = 0x7f00_0000_0000n

/** One message as sent: nothing of it needs to be true. */
export interface RawMessage {
  readonly request: number
  readonly flags: number
  /** What the header says about the payload's length, more or less than it is. */
  readonly lie: number
  readonly payload: Uint8Array
  readonly fds: readonly FdSort[]
  /** Pieces it is sent in; fds go with the first. */
  readonly pieces: number
  /** Turns of the event loop before the next one. */
  readonly turns: number
}

/** Fds of a session; all are closed at its end. */
export class FdShop {
  readonly #open: number[] = []
  readonly #files: number[] = []
  readonly memory: Mapping = Mapping.create({ name: "fuzz-guest", size: RAM_SIZE })

  make(sort: FdSort): number {
    switch (sort) {
      case "memory":
        return this.memory.fd
      case "small":
        return this.#file("/dev/shm", 4096)
      case "shrinks": {
        const fd = this.#file("/dev/shm", RAM_SIZE)
        this.#files.push(fd)
        return fd
      }
      case "file":
        return this.#file("/var/tmp", RAM_SIZE)
      case "eventfd":
        return this.#keep(eventFd())
      case "pipe":
      case "write-pipe": {
        const [read, write] = pipe()
        this.#keep(read)
        this.#keep(write)
        return sort === "pipe" ? read : write
      }
      case "socket": {
        const [one, other] = socketPair()
        this.#keep(other)
        return this.#keep(one)
      }
      case "directory":
        return this.#keep(openSync("/", "r"))
      case "null":
        return this.#keep(openSync("/dev/null", "r+"))
    }
  }

  /** Takes memory away under the back end. */
  shrink(): void {
    for (const fd of this.#files) ftruncateSync(fd, 0)
  }

  close(): void {
    for (const fd of this.#open) closeSync(fd)
    this.memory.close()
  }

  #keep(fd: number): number {
    this.#open.push(fd)
    return fd
  }

  #file(folder: string, size: number): number {
    const path = `${folder}/ts-vmm-fuzz-${process.pid}-${this.#open.length}`
    const fd = this.#keep(openSync(path, "wx+"))
    unlinkSync(path)
    ftruncateSync(fd, size)
    return fd
  }
}

/** A front end's end of the socket. */
export class FrontEnd {
  readonly #fd: number

  constructor(fd: number) {
    this.#fd = fd
  }

  /** Sends as much of a message as the back end lets it; false once it hung up. */
  async send(message: RawMessage, shop: FdShop): Promise<boolean> {
    const header = new DataView(new ArrayBuffer(12))
    header.setUint32(0, message.request, true)
    header.setUint32(4, message.flags, true)
    header.setUint32(8, (message.payload.length + message.lie) >>> 0, true)
    const bytes = join(new Uint8Array(header.buffer), message.payload)
    const size = Math.ceil(bytes.length / Math.max(1, message.pieces))
    let fds = message.fds.map(sort => shop.make(sort))
    for (let at = 0; at < bytes.length; at += size) {
      if (!(await this.#push(bytes.subarray(at, at + size), fds))) return false
      fds = []
    }
    for (let i = 0; i < message.turns; i++) await setImmediate()
    return true
  }

  async #push(bytes: Uint8Array, fds: readonly number[]): Promise<boolean> {
    for (let tries = 0; tries < 200; tries++) {
      try {
        if (sendMessage(this.#fd, bytes, fds) !== undefined) return true
      } catch {
        return false
      }
      this.takeAnswers()
      await setImmediate()
    }
    return false
  }

  /** Reads what has come; fds that came with it are closed. */
  takeAnswers(): Uint8Array {
    const into = new Uint8Array(8192)
    let all = new Uint8Array()
    for (;;) {
      try {
        const got = receiveMessage(this.#fd, into, 8)
        if (!got) return all
        for (const fd of got.fds) closeFd(fd)
        if (got.length === 0) return all
        all = join(all, into.subarray(0, got.length)) as typeof all
      } catch {
        return all
      }
    }
  }

  close(): void {
    closeFd(this.#fd)
  }
}

/** An honest message. */
export function honest(
  request: number,
  payload: Uint8Array = new Uint8Array(),
  fds: readonly FdSort[] = [],
): RawMessage {
  return { request, flags: v.VHOST_USER_VERSION, lie: 0, payload, fds, pieces: 1, turns: 0 }
}

/** Little-endian words of a payload; bigints take eight bytes. */
export function words(...values: readonly (number | bigint)[]): Uint8Array {
  return join(
    ...values.map(value => {
      const view = new DataView(new ArrayBuffer(typeof value === "bigint" ? 8 : 4))
      if (typeof value === "bigint") view.setBigUint64(0, BigInt.asUintN(64, value), true)
      else view.setUint32(0, value, true)
      return new Uint8Array(view.buffer)
    }),
  )
}

export const RING = { size: 16, desc: 0x1000, driver: 0x2000, device: 0x3000 } as const
export const BASE_FEATURES = (1n << 32n) | (1n << 30n) | (1n << 28n)
export const PROTOCOL_FEATURES = [0n, 1n, 3n, 5n, 9n, 12n, 13n, 15n, 16n].reduce(
  (all, bit) => all | (1n << bit),
  0n,
)

/** What an honest front end says to bring ring 0 up. */
export function honestSession(): RawMessage[] {
  const user = (offset: number) => USER_ADDRESS + BigInt(offset)
  return [
    honest(v.VHOST_USER_GET_FEATURES),
    honest(v.VHOST_USER_GET_PROTOCOL_FEATURES),
    honest(v.VHOST_USER_SET_PROTOCOL_FEATURES, words(PROTOCOL_FEATURES)),
    honest(v.VHOST_USER_SET_OWNER),
    honest(v.VHOST_USER_SET_FEATURES, words(BASE_FEATURES)),
    honest(v.VHOST_USER_SET_MEM_TABLE, words(1, 0, 0n, BigInt(RAM_SIZE), USER_ADDRESS, 0n), ["memory"]),
    honest(v.VHOST_USER_SET_VRING_NUM, words(0, RING.size)),
    honest(v.VHOST_USER_SET_VRING_BASE, words(0, 0)),
    honest(
      v.VHOST_USER_SET_VRING_ADDR,
      words(0, 0, user(RING.desc), user(RING.device), user(RING.driver), 0n),
    ),
    honest(v.VHOST_USER_SET_VRING_CALL, words(0n), ["eventfd"]),
    honest(v.VHOST_USER_SET_VRING_KICK, words(0n), ["eventfd"]),
    honest(v.VHOST_USER_SET_VRING_ENABLE, words(0, 1)),
  ]
}

/** An honest session from beginning to end: entropy is asked for, and comes. */
export async function goodSession(fd: number): Promise<void> {
  const front = new FrontEnd(fd)
  const shop = new FdShop()
  try {
    const memory = mappingMemory([{ start: 0, mapping: shop.memory }])
    const bytes = new Uint8Array(shop.memory.buffer)
    const driver = new SplitDriver(memory, RING, BASE_FEATURES)
    driver.post([{ address: 0x4000, length: 32, writable: true, bytes: () => new Uint8Array() }])
    const kick = eventFd()
    for (const message of honestSession()) {
      const isKick = message.request === v.VHOST_USER_SET_VRING_KICK
      if (isKick) sendMessage(fd, join(words(message.request, 1, 8), message.payload), [kick])
      else ok(await front.send(message, shop), "back end hung up on an honest front end")
    }
    signal(kick)
    closeFd(kick)
    await untilUsed(driver)
    ok(
      bytes.subarray(0x4000, 0x4020).some(byte => byte !== 0),
      "no entropy",
    )
  } finally {
    front.takeAnswers()
    front.close()
    shop.close()
  }
}

async function untilUsed(driver: SplitDriver): Promise<void> {
  const deadline = performance.now() + 10_000
  for (let used = driver.poll(); ; used = driver.poll()) {
    if (used) return strictEqual(used.length, 32)
    ok(performance.now() < deadline, "an honest request does not come back")
    await setImmediate()
  }
}
