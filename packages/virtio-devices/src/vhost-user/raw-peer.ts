import { readdirSync, readlinkSync } from "node:fs"
import { setImmediate, setTimeout } from "node:timers/promises"
import { closeFd, Mapping, receiveMessage, SysError, sendMessage, socketPair } from "@ts-vmm/native"
import type { VirtioDevice } from "../device.js"
import { VIRTIO_F_VERSION_1 } from "../features.js"
import * as defs from "./defs.js"
import type { VhostUserError } from "./errors.js"
import * as message from "./message.js"
import { type ServeOptions, serveVhostUser, type VhostUserServer } from "./server.js"

/** Number of this process's open fds, sockets and files of the test runner included. */
export function openFds(): number {
  return readdirSync("/proc/self/fd").filter(fd => {
    try {
      return !readlinkSync(`/proc/self/fd/${fd}`).startsWith("/proc")
    } catch {
      return false
    }
  }).length
}

/** The same, once pollers that were closed have let go of theirs. */
export async function settledFds(): Promise<number> {
  for (let i = 0; i < 3; i++) await setTimeout(1)
  return openFds()
}

/** Less than a test has, so that what was waited for is named. */
const PATIENCE_MS = 20_000

/** A front end for tests that says whatever it is told to, byte by byte. */
export class RawPeer implements Disposable {
  readonly server: VhostUserServer
  readonly #fd: number
  #ended: { error: VhostUserError | undefined } | undefined
  #closed = false

  constructor(device: VirtioDevice, options: Omit<ServeOptions, "fd" | "socketPath"> = {}) {
    const [ours, theirs] = socketPair()
    this.#fd = ours
    this.server = serveVhostUser(device, { ...options, fd: theirs })
    this.server.on("disconnected", error => {
      this.#ended = { error }
    })
  }

  /** Sends bytes as they are. @returns false when the back end has hung up */
  write(bytes: Uint8Array, fds: readonly number[] = []): boolean {
    try {
      sendMessage(this.#fd, bytes, fds)
      return true
    } catch (error) {
      if (error instanceof SysError) return false
      throw error
    }
  }

  /** Sends one well-formed message. */
  send(
    request: number,
    payload: Uint8Array = new Uint8Array(0),
    fds: readonly number[] = [],
    flags = 0,
  ): boolean {
    return this.write(message.encodeMessage(request, flags, payload), fds)
  }

  /** Sends a request and waits for its answer's payload. */
  async ask(
    request: number,
    payload?: Uint8Array,
    fds?: readonly number[],
    flags?: number,
  ): Promise<Uint8Array> {
    this.send(request, payload, fds, flags)
    const header = message.decodeHeader(await this.#read(defs.VHOST_USER_HEADER_SIZE))
    message.checkReply(header, request, defs.VHOST_USER_MAX_PAYLOAD)
    return this.#read(header.size)
  }

  /** Sends a request with NEED_REPLY. @returns what the back end says: 0 for success */
  async command(request: number, payload?: Uint8Array, fds?: readonly number[]): Promise<bigint> {
    return message.decodeU64(await this.ask(request, payload, fds, defs.VHOST_USER_NEED_REPLY_MASK))
  }

  /** Protocol features, ownership and features: what a front end says first. */
  async greet(): Promise<void> {
    await this.ask(defs.VHOST_USER_GET_FEATURES)
    const offered = message.decodeU64(await this.ask(defs.VHOST_USER_GET_PROTOCOL_FEATURES))
    this.send(defs.VHOST_USER_SET_PROTOCOL_FEATURES, message.encodeU64(offered))
    await this.command(defs.VHOST_USER_SET_OWNER)
    const features = VIRTIO_F_VERSION_1 | (1n << BigInt(defs.VHOST_USER_F_PROTOCOL_FEATURES))
    await this.command(defs.VHOST_USER_SET_FEATURES, message.encodeU64(features))
  }

  /** Shares `ram` at guest address 0, user address `RAM_USER`. */
  async share(ram: Mapping): Promise<void> {
    await this.command(defs.VHOST_USER_SET_MEM_TABLE, message.encodeMemoryTable([regionOf(ram)]), [ram.fd])
  }

  /** Sets ring 0 up at the start of the shared memory and enables it. */
  async startRing(kick: number, call: number): Promise<void> {
    const state = (num: number) => message.encodeVringState({ index: 0, num })
    await this.command(defs.VHOST_USER_SET_VRING_CALL, message.encodeU64(0n), [call])
    await this.command(defs.VHOST_USER_SET_VRING_NUM, state(64))
    await this.command(defs.VHOST_USER_SET_VRING_BASE, state(0))
    await this.command(defs.VHOST_USER_SET_VRING_ADDR, ringAddress())
    await this.command(defs.VHOST_USER_SET_VRING_KICK, message.encodeU64(0n), [kick])
    await this.command(defs.VHOST_USER_SET_VRING_ENABLE, state(1))
  }

  /** Waits until the back end hung up. @returns why */
  async hangUp(): Promise<VhostUserError | undefined> {
    const deadline = performance.now() + PATIENCE_MS
    while (!this.#ended) {
      if (performance.now() > deadline) throw new Error("the back end did not hang up")
      await setTimeout(1)
    }
    return this.#ended.error
  }

  /** Lets the back end handle what was sent. */
  async settle(): Promise<void> {
    for (let i = 0; i < 6; i++) await setImmediate()
  }

  /** Closes this end alone: the back end has to find out. */
  hangUpFirst(): void {
    if (!this.#closed) closeFd(this.#fd)
    this.#closed = true
  }

  close(): void {
    this.hangUpFirst()
    this.server.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  async #read(length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length)
    const deadline = performance.now() + PATIENCE_MS
    for (let have = 0; have < length; ) {
      const got = receiveMessage(this.#fd, bytes.subarray(have), 8)
      if (got?.length === 0) throw new Error("the back end hung up")
      for (const fd of got?.fds ?? []) closeFd(fd)
      have += got?.length ?? 0
      if (performance.now() > deadline) throw new Error("the back end did not answer")
      if (!got) await setImmediate()
    }
    return bytes
  }
}

/** Where tests say that guest address 0 is in the front end's own memory. */
export const RAM_USER = 0x7000_0000_0000n

/** SET_VRING_ADDR of ring 0: its parts at 0, 0x1000 and 0x2000 of the shared memory. */
export function ringAddress(over: Partial<message.VringAddr> = {}): Uint8Array {
  const parts = { desc: RAM_USER, avail: RAM_USER + 0x1000n, used: RAM_USER + 0x2000n }
  return message.encodeVringAddr({ index: 0, flags: 0, log: 0n, ...parts, ...over })
}

/** All of `ram` at guest address 0. */
export function regionOf(ram: Mapping): message.WireRegion {
  return { guestAddress: 0n, size: BigInt(ram.size), userAddress: RAM_USER, mmapOffset: 0n }
}

/** Memory of a guest. */
export function testRam(size = 1 << 20): Mapping {
  return Mapping.create({ name: "ram", size })
}
