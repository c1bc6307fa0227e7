import type { Writable } from "node:stream"
import type { DeviceContext } from "../device.js"
import type { DescriptorChain } from "../queue/chain.js"
import { Backlog, ByteQueue } from "./byte-queue.js"
import { portRxQueue, portTxQueue } from "./defs.js"

/** Guest output is copied in pieces of at most this many bytes. */
const PIECE_SIZE = 16 * 1024
/** Most guest output per port and turn of the event loop. */
const TURN_SIZE = 256 * 1024
/** What a chain counts for by itself, so that empty ones are bounded too. */
const CHAIN_COST = 256
/** Most chains filled with input in one go. */
const INPUT_CHAINS_PER_TURN = 1024
const DEFAULT_BUFFER_SIZE = 64 * 1024

/** Takes guest output of one port. */
export interface ConsoleSink {
  /**
   * Gets bytes of its own. @returns false when it wants no more until `ConsolePort.resume` is called; what it
   * was given counts as taken either way
   */
  write(bytes: Uint8Array): boolean
}

/** How a port is made. */
export interface ConsolePortOptions {
  /** Name the guest sees in sysfs and under /dev/virtio-ports. */
  readonly name?: string
  /** The port is a terminal (hvc) of the guest. Default: true for port 0, false for others. */
  readonly console?: boolean
  /**
   * What happens to output while no sink takes it. `drop` keeps the newest bytes and counts the others;
   * `hold` leaves output with the guest, which waits. Default: `drop` for consoles, because a Linux guest
   * spins on its CPU until console output is taken, `hold` for others.
   */
  readonly whenFull?: "drop" | "hold"
  /** Most bytes kept for a sink that is not there (`drop`), and of input not yet taken. Default 64 KiB. */
  readonly bufferSize?: number
}

/** Terminal size in characters. */
export interface TerminalSize {
  readonly cols: number
  readonly rows: number
}

/** What a port tells its device. */
export interface PortOwner {
  resized(port: ConsolePort): void
  hostOpened(port: ConsolePort): void
}

/**
 * The host's end of one console port.
 *
 * Output (guest to host) goes to the attached sink; memory is bounded whatever the guest sends and however
 * slow the sink is. Input (host to guest) is bounded too: `send` says how much it took.
 *
 * @example
 * ```ts
 * const port = consoleDevice.ports[0]
 * port.pipe(process.stdout)
 * process.stdin.on("data", data => port.send(data))
 * process.stdout.on("resize", () => port.resize({ cols: process.stdout.columns, rows: process.stdout.rows }))
 * ```
 */
export class ConsolePort {
  readonly index: number
  readonly name: string | undefined
  readonly isConsole: boolean
  readonly whenFull: "drop" | "hold"
  /** Guest output bytes dropped because nobody took them. */
  droppedBytes = 0
  /** Guest output bytes taken from the guest, dropped ones included. */
  outputBytes = 0
  /** Is called when the guest opens or closes its end. */
  onGuestOpen: ((open: boolean) => void) | undefined
  readonly #owner: PortOwner
  readonly #backlog: Backlog
  readonly #input: ByteQueue
  #sink: ConsoleSink | undefined
  #paused = false
  #ctx: DeviceContext | undefined
  #guestOpen = false
  #size: TerminalSize | undefined
  #writable: (() => void)[] = []
  /** A chain whose bytes were given away up to `#heldOffset`. */
  #held: DescriptorChain | undefined
  #heldOffset = 0
  #turn = 0
  #turnScheduled = false

  /** Made by `ConsoleDevice`. */
  constructor(index: number, options: ConsolePortOptions, owner: PortOwner) {
    const size = options.bufferSize ?? DEFAULT_BUFFER_SIZE
    if (!(Number.isInteger(size) && size >= 0)) throw new RangeError(`console buffer of ${size} bytes`)
    this.index = index
    this.name = options.name
    this.isConsole = options.console ?? index === 0
    this.whenFull = options.whenFull ?? (this.isConsole ? "drop" : "hold")
    this.#owner = owner
    this.#backlog = new Backlog(size)
    this.#input = new ByteQueue(size)
  }

  /** True while the guest has its end open. */
  get guestOpen(): boolean {
    return this.#guestOpen
  }

  /** True while a sink is attached: the guest sees the port as open. */
  get hostOpen(): boolean {
    return this.#sink !== undefined
  }

  /** Last size set with `resize`. */
  get size(): TerminalSize | undefined {
    return this.#size
  }

  /** Input bytes the guest has not taken yet. */
  get pendingInput(): number {
    return this.#input.size
  }

  /** Gives output to `sink` from now on, what was kept first. Replaces the sink before. */
  attach(sink: ConsoleSink): void {
    const opened = this.#sink === undefined
    this.#sink = sink
    this.#paused = false
    if (this.#backlog.size > 0) this.#paused = !sink.write(this.#backlog.drain())
    if (opened) this.#owner.hostOpened(this)
    this.#takeOutput()
  }

  /** Gives output to nobody. */
  detach(): void {
    if (!this.#sink) return
    this.#sink = undefined
    this.#paused = false
    this.#owner.hostOpened(this)
    this.#takeOutput()
  }

  /** The sink wants more. */
  resume(): void {
    if (!this.#sink || !this.#paused) return
    this.#paused = false
    if (this.#backlog.size > 0) this.#paused = !this.#sink.write(this.#backlog.drain())
    this.#takeOutput()
  }

  /** Gives output to a stream, at its pace, until it closes. @returns what undoes it */
  pipe(stream: Writable): () => void {
    const sink: ConsoleSink = { write: bytes => stream.write(bytes) }
    const resume = () => this.resume()
    const stop = () => {
      stream.off("drain", resume).off("close", stop).off("error", stop)
      if (this.#sink === sink) this.detach()
    }
    stream.on("drain", resume).on("close", stop).on("error", stop)
    this.attach(sink)
    return stop
  }

  /** Sends input to the guest, as much as there is room for. @returns bytes taken */
  send(bytes: Uint8Array): number {
    const taken = this.#input.push(bytes)
    this.#giveInput()
    return taken
  }

  /** Resolves when `send` takes bytes again. */
  writable(): Promise<void> {
    if (this.#input.size < this.#input.limit) return Promise.resolve()
    return new Promise(resolve => this.#writable.push(resolve))
  }

  /** New terminal size; kept for a guest that is not up yet. @throws RangeError outside 0 to 65535 */
  resize(size: TerminalSize): void {
    for (const value of [size.cols, size.rows])
      if (!(Number.isInteger(value) && value >= 0 && value <= 0xffff))
        throw new RangeError(`terminal size ${size.cols}x${size.rows}`)
    this.#size = { cols: size.cols, rows: size.rows }
    this.#owner.resized(this)
  }

  // What follows is the device's side.

  /** @internal The device is active. */
  activate(ctx: DeviceContext): void {
    this.#ctx = ctx
  }

  /** @internal The guest is gone, and with it what was meant for it. */
  reset(): void {
    this.#ctx = undefined
    this.#dropHeld()
    this.#input.clear()
    this.#releaseWriters()
    this.setGuestOpen(false)
  }

  /** @internal The guest opened or closed its end. */
  setGuestOpen(open: boolean): void {
    if (open === this.#guestOpen) return
    this.#guestOpen = open
    this.onGuestOpen?.(open)
    this.#giveInput()
  }

  /** @internal A queue of this port was notified. */
  notify(index: number): void {
    if (index === portTxQueue(this.index)) this.#takeOutput()
    else this.#giveInput()
  }

  get #taking(): boolean {
    return this.#sink ? !this.#paused || this.whenFull === "drop" : this.whenFull === "drop"
  }

  #takeOutput(): void {
    const ctx = this.#ctx
    if (!ctx || this.#turnScheduled) return
    const queue = portTxQueue(this.index)
    while (this.#taking && !ctx.signal.aborted) {
      if (this.#turn >= TURN_SIZE) {
        this.#goOnLater(ctx)
        return
      }
      if (this.#held?.revoked) this.#dropHeld()
      this.#held ??= ctx.pop(queue)
      if (!this.#held) break
      this.#takePiece(ctx, queue, this.#held)
    }
    this.#turn = 0
  }

  #takePiece(ctx: DeviceContext, queue: number, chain: DescriptorChain): void {
    const piece = new Uint8Array(Math.min(PIECE_SIZE, chain.readableLength - this.#heldOffset))
    const copied = chain.read(this.#heldOffset, piece)
    this.#heldOffset += copied
    this.#turn += copied + CHAIN_COST
    this.outputBytes += copied
    // Completed before the sink is called: what it does, even a reset, finds a tidy port.
    if (copied === 0 || this.#heldOffset >= chain.readableLength) {
      this.#dropHeld()
      ctx.complete(queue, chain, 0)
    }
    if (copied > 0) this.#deliver(piece)
  }

  #dropHeld(): void {
    this.#held = undefined
    this.#heldOffset = 0
  }

  #deliver(piece: Uint8Array): void {
    if (this.#sink && !this.#paused) this.#paused = !this.#sink.write(piece)
    else this.droppedBytes += this.#backlog.push(piece)
  }

  #goOnLater(ctx: DeviceContext): void {
    this.#turnScheduled = true
    setImmediate(() => {
      this.#turnScheduled = false
      this.#turn = 0
      if (!ctx.signal.aborted) this.#takeOutput()
    })
  }

  #giveInput(): void {
    const ctx = this.#ctx
    if (!ctx || !this.#guestOpen) return
    const queue = portRxQueue(this.index)
    for (let chains = 0; this.#input.size > 0; chains++) {
      if (chains === INPUT_CHAINS_PER_TURN) {
        // Only buffers without room can bring it here: the guest gets its next turn with the next one.
        setImmediate(() => this.#giveInput())
        return
      }
      const chain = ctx.pop(queue)
      if (!chain) break
      const bytes = this.#input.take(chain.writableLength)
      ctx.complete(queue, chain, chain.write(0, bytes))
    }
    if (this.#input.size < this.#input.limit) this.#releaseWriters()
  }

  #releaseWriters(): void {
    for (const resolve of this.#writable.splice(0)) resolve()
  }
}
