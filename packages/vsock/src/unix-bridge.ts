import { chmod, mkdir, stat } from "node:fs/promises"
import { createServer, connect as netConnect, type Server, type Socket } from "node:net"
import { dirname } from "node:path"
import type { Connection } from "./connection.js"
import { DEFAULT_MAX_HALF_OPEN } from "./defs.js"
import type { VsockDevice } from "./device.js"
import { VsockError } from "./errors.js"
import type { Acceptor } from "./muxer.js"
import { VsockStream } from "./streams.js"

/** Longest path of a Unix socket (`sun_path` less its final NUL). */
const MAX_PATH_BYTES = 107
/** "_4294967295", the longest suffix of a forwarded port. */
const MAX_SUFFIX_BYTES = 11
/** `CONNECT 4294967295\n` has 19 bytes; nothing longer can become right. */
const MAX_LINE_BYTES = 32
const LINE_FEED = 0x0a

/** How a bridge is made. */
export interface UnixBridgeOptions {
  /** Path of the socket that host programs connect to. Its folder must be private (0700), and is made if missing. */
  readonly path: string
  /** Time a host program has to say `CONNECT`; default 5,000. */
  readonly handshakeTimeoutMs?: number
  /** Clients in their handshake, and guest requests waiting for a host socket, each; default 256. */
  readonly maxPending?: number
}

/**
 * Unix sockets as the host side of a vsock device, with the protocol Firecracker's users know:
 *
 * - a host program connects to `path`, writes `CONNECT <port>\n` and reads `OK <host port>\n`; from there on
 *   it talks to that port of the guest. A refused or malformed request ends in a closed socket.
 * - a guest that connects to host port `P` reaches whoever listens on `<path>_P`, if no listener of the
 *   device has that port; with nobody there it gets an RST.
 *
 * The socket has mode 0600 in a 0700 folder, so only its owner (and root) can connect.
 *
 * @see Firecracker, docs/vsock.md
 */
export class UnixBridge implements Acceptor {
  /** Path of the socket. */
  readonly path: string
  readonly #device: VsockDevice
  readonly #handshakeTimeoutMs: number
  readonly #maxPending: number
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  #handshakes = 0
  #requests = 0

  private constructor(device: VsockDevice, options: UnixBridgeOptions) {
    this.#device = device
    this.path = options.path
    this.#handshakeTimeoutMs = options.handshakeTimeoutMs ?? 5_000
    this.#maxPending = options.maxPending ?? DEFAULT_MAX_HALF_OPEN
    this.#server = createServer({ allowHalfOpen: true }, socket => this.#onClient(socket))
  }

  /**
   * Binds `options.path` and takes the guest's requests that no listener wants. Errors: `bridge-path` (too
   * long, in use, folder open to others), with the system's error as cause.
   *
   * @example
   * ```ts
   * await using bridge = await UnixBridge.serve(vsock, { path: "run/vsock.sock" })
   * ```
   */
  static async serve(device: VsockDevice, options: UnixBridgeOptions): Promise<UnixBridge> {
    const bridge = new UnixBridge(device, options)
    await bridge.#bind()
    device.setFallback(bridge)
    return bridge
  }

  /** Removes the socket and ends all connections that went over it. */
  async close(): Promise<void> {
    this.#device.setFallback(undefined)
    for (const socket of this.#sockets) socket.destroy()
    await new Promise<void>(resolve => this.#server.close(() => resolve()))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #bind(): Promise<void> {
    if (Buffer.byteLength(this.path) + MAX_SUFFIX_BYTES > MAX_PATH_BYTES) {
      const limit = MAX_PATH_BYTES - MAX_SUFFIX_BYTES
      throw new VsockError(
        "bridge-path",
        undefined,
        `socket path is longer than ${limit} bytes: ${this.path}`,
      )
    }
    try {
      const folder = dirname(this.path)
      await mkdir(folder, { recursive: true, mode: 0o700 })
      if ((await stat(folder)).mode & 0o077) throw new Error(`folder is open to other users: ${folder}`)
      await new Promise<void>((resolve, reject) => {
        this.#server.once("error", reject)
        this.#server.listen(this.path, resolve)
      })
      await chmod(this.path, 0o600)
    } catch (cause) {
      this.#server.close()
      throw new VsockError("bridge-path", undefined, `${(cause as Error).message}`, { cause })
    }
  }

  // --- a host program connects ---

  #onClient(socket: Socket): void {
    this.#keep(socket)
    if (this.#handshakes >= this.#maxPending) return void socket.destroy()
    this.#handshakes++
    const timer = setTimeout(() => socket.destroy(), this.#handshakeTimeoutMs)
    readLine(socket)
      .then(line => this.#connectGuest(socket, parseConnect(line)))
      .catch(() => socket.destroy())
      .finally(() => {
        clearTimeout(timer)
        this.#handshakes--
      })
  }

  async #connectGuest(socket: Socket, port: number): Promise<void> {
    const controller = new AbortController()
    const giveUp = () => controller.abort()
    socket.once("close", giveUp)
    const stream = await this.#device.connect(port, {
      signal: controller.signal,
      timeoutMs: this.#handshakeTimeoutMs,
    })
    socket.off("close", giveUp)
    socket.write(`OK ${stream.localPort}\n`)
    splice(socket, stream)
  }

  // --- the guest connects ---

  /** Takes a request of the guest; called by the device. */
  incoming(connection: Connection): void {
    if (this.#requests >= this.#maxPending) {
      connection.reset()
      return
    }
    this.#requests++
    const socket = netConnect({ path: `${this.path}_${connection.hostPort}`, allowHalfOpen: true })
    this.#keep(socket)
    const settled = () => {
      this.#requests--
      socket.off("connect", onConnect).off("error", onFailure).off("close", onFailure)
    }
    const onConnect = () => {
      settled()
      if (connection.state !== "accepting") return void socket.destroy()
      const stream = new VsockStream(connection, this.#device.guestCid)
      connection.accept()
      splice(socket, stream)
    }
    const onFailure = () => {
      settled()
      connection.reset()
    }
    socket.once("connect", onConnect).once("error", onFailure).once("close", onFailure)
    connection.consumer = { onEvents: () => void (connection.state === "closed" && socket.destroy()) }
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket)
    // Whatever ends the socket also closes it, and "close" is where the other end is told.
    socket.on("error", () => socket.destroy())
    socket.once("close", () => this.#sockets.delete(socket))
  }
}

/** Joins both ends, each way on its own: a half-close passes on, a broken end resets the other one. */
function splice(socket: Socket, stream: VsockStream): void {
  socket.once("close", () => {
    // Ended both ways, the stream may still be sending, and ends by itself.
    if (!socket.readableEnded || !stream.readableEnded) stream.destroy()
  })
  stream.on("error", () => socket.destroySoon())
  stream.once("close", () => socket.destroySoon())
  if (socket.destroyed) return void stream.destroy()
  socket.pipe(stream)
  stream.pipe(socket)
}

/** Reads up to the first line feed; what follows stays in the socket. Rejects when no short line comes. */
function readLine(socket: Socket): Promise<string> {
  return new Promise((resolve, reject) => {
    let line = ""
    const onReadable = () => {
      for (let byte = socket.read(1); byte !== null; byte = socket.read(1)) {
        if (byte[0] === LINE_FEED) return settle(() => resolve(line))
        line += String.fromCharCode(byte[0])
        if (line.length >= MAX_LINE_BYTES) return settle(() => reject(new VsockError("invalid-argument")))
      }
    }
    const onEnd = () => settle(() => reject(new VsockError("closed")))
    const settle = (outcome: () => void) => {
      socket.off("readable", onReadable).off("end", onEnd).off("close", onEnd)
      outcome()
    }
    socket.on("readable", onReadable).once("end", onEnd).once("close", onEnd)
  })
}

function parseConnect(line: string): number {
  const port = /^CONNECT (\d{1,10})$/i.exec(line)?.[1]
  if (port === undefined) throw new VsockError("invalid-argument", undefined, "not a CONNECT line")
  return Number(port)
}
