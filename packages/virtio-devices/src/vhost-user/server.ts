import { EventEmitter } from "node:events"
import { rmSync } from "node:fs"
import { closeFd, MAX_UNIX_PATH, Poller, SysError, unixAccept, unixListen } from "@ts-vmm/native"
import type * as TypedEmitter from "typed-emitter"
import type { VirtioDevice } from "../device.js"
import { SharedCounters } from "../shared-counters.js"
import { TransportCounters } from "../transport/counters.js"
import { type BackendOptions, VhostUserBackend } from "./backend.js"
import { VhostUserError } from "./errors.js"
import { THREAD_COUNTER_NAMES } from "./threads/orders.js"

/** Events of a {@link VhostUserServer}. */
export type VhostUserServerEvents = {
  /** A front end connected. */
  connected: () => void
  /** It left, or was thrown out for `error`. The device has been reset; the next one may come. */
  disconnected: (error: VhostUserError | undefined) => void
  /** The guest broke a ring, or the device gave up; it stays stopped until the front end resets it. */
  deviceFailed: (error: Error) => void
  /** The server itself cannot go on and closed. */
  error: (error: Error) => void
}

/** Where a device is served, and how patiently. */
export interface ServeOptions extends Partial<BackendOptions> {
  /** Path of a socket to listen at: mode 0600, must not exist, removed by `close`. */
  readonly socketPath?: string
  /** A connected stream socket instead, e.g. one end of a pair; owned by the server from here on. */
  readonly fd?: number
}

/** What has happened on a server since it was made. */
export class ServerCounters extends TransportCounters {
  /** Front ends that connected. */
  connections = 0
  /** Of those, thrown out for an error. */
  protocolErrors = 0
}

const DEFAULTS: BackendOptions = {
  files: "memory",
  messageTimeoutMs: 2000,
  quiesceTimeoutMs: 5000,
  packed: false,
}

const Emitter = EventEmitter as new () => TypedEmitter.default<VhostUserServerEvents>

/**
 * Serves one device to one front end at a time over vhost-user.
 *
 * ```
 *   listening --connect--> connected --disconnect, error--> device reset --> listening
 * ```
 *
 * With `fd` there is one front end only, and the server closes when it leaves.
 */
export class VhostUserServer extends Emitter implements Disposable {
  readonly counters = new ServerCounters()
  readonly #device: VirtioDevice
  readonly #options: BackendOptions
  readonly #socketPath: string | undefined
  /** Counters as sums, for a device with threads. */
  readonly #shared: SharedCounters<TransportCounters> | undefined
  /** Sessions that are over, and whose threads have not ended yet. */
  readonly #ending = new Set<Promise<void>>()
  #listenFd = -1
  #poller: Poller | undefined
  #backend: VhostUserBackend | undefined
  #closed = false

  /** Use {@link serveVhostUser}. */
  constructor(device: VirtioDevice, options: ServeOptions) {
    super()
    this.#device = device
    this.#options = { ...DEFAULTS, ...definedOf(options) }
    this.#socketPath = options.socketPath
    if (device.threads)
      this.#shared = new SharedCounters<TransportCounters>(this.counters, THREAD_COUNTER_NAMES)
    if (options.fd !== undefined) {
      this.#serve(options.fd)
      return
    }
    this.#listenFd = listen(options.socketPath!)
    this.#poller = new Poller(this.#listenFd, "readable", () => {
      this.#accept()
    })
  }

  /** A front end is connected. */
  get connected(): boolean {
    return this.#backend !== undefined
  }

  /** True after {@link close}, or once the only front end of an `fd` server left. */
  get closed(): boolean {
    return this.#closed
  }

  /**
   * Settles when the threads of sessions that are over have ended, for a device that has threads: until then they may have
   * I/O under way, and the disk's image stays open, and locked.
   *
   * @example
   * ```ts
   * server.close()
   * await server.ended()
   * ```
   */
  async ended(): Promise<void> {
    await Promise.all(this.#ending)
  }

  /** Disconnects, resets the device and removes the socket. Idempotent; no event follows. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#backend?.close()
    this.#over()
    this.#poller?.close()
    if (this.#listenFd < 0) return
    closeFd(this.#listenFd)
    rmSync(this.#socketPath!, { force: true })
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #accept(): void {
    let fd: number | undefined
    try {
      fd = unixAccept(this.#listenFd)
    } catch (error) {
      if (error instanceof SysError && error.code === "ECONNABORTED") return
      // Out of fds, say: listening on would spin.
      this.close()
      this.emit("error", error as Error)
      return
    }
    if (fd === undefined) return
    // One front end at a time: the next waits in the backlog.
    this.#poller!.setInterest("none")
    this.#serve(fd)
    this.emit("connected")
  }

  #serve(fd: number): void {
    this.counters.connections++
    this.#backend = new VhostUserBackend(
      this.#device,
      fd,
      this.#options,
      {
        ended: error => {
          this.#ended(error)
        },
        deviceFailed: error => {
          this.emit("deviceFailed", error)
        },
      },
      this.#shared ?? this.counters,
    )
  }

  /** The session is. */
  #over(): void {
    const ended = this.#backend?.ended().finally(() => this.#ending.delete(ended!))
    if (ended) this.#ending.add(ended)
    this.#backend = undefined
  }

  #ended(error: VhostUserError | undefined): void {
    this.#over()
    if (error) this.counters.protocolErrors++
    if (this.#poller) this.#poller.setInterest("readable")
    else this.#closed = true
    this.emit("disconnected", error)
  }
}

/**
 * Serves `device` to QEMU, User Mode Linux, cloud-hypervisor or any other vhost-user front end.
 *
 * @param options exactly one of `socketPath` and `fd`
 * @throws VhostUserError `socket-path` when it is longer than 107 bytes; SysError `EADDRINUSE`, `EACCES`, …
 *
 * @example
 * ```ts
 * const server = serveVhostUser(new BlockDevice(openFileBackend("disk.img")), { socketPath: "disk.sock" })
 * server.on("disconnected", error => error && console.error(error.message))
 * ```
 */
export function serveVhostUser(device: VirtioDevice, options: ServeOptions): VhostUserServer {
  if ((options.socketPath === undefined) === (options.fd === undefined)) {
    throw new TypeError("exactly one of socketPath and fd is needed")
  }
  return new VhostUserServer(device, options)
}

function listen(path: string): number {
  const length = Buffer.byteLength(path)
  if (length > MAX_UNIX_PATH) {
    throw new VhostUserError(
      "socket-path",
      `socket path of ${length} bytes, at most ${MAX_UNIX_PATH}: ${path}`,
      {
        value: length,
      },
    )
  }
  return unixListen(path, { mode: 0o600, backlog: 8 })
}

function definedOf(options: ServeOptions): Partial<BackendOptions> {
  const { files, messageTimeoutMs, quiesceTimeoutMs, packed } = options
  const given = { files, messageTimeoutMs, quiesceTimeoutMs, packed }
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
}
