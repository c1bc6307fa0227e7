import type { GuestAddress } from "@ts-vmm/vm-memory"
import type { DeviceContext, VirtioDevice } from "../device.js"
import type { DeviceMemory } from "../device-memory.js"
import { VIRTIO_ID } from "../ids.js"
import type { DescriptorChain } from "../queue/chain.js"
import { Blocks } from "./blocks.js"
import * as defs from "./defs.js"
import { type MemRequest, readRequest } from "./request.js"

const QUEUE_SIZE = 64
/** The largest that makes sense: 1 TiB. */
const MAX_REGION = 2 ** 40

/** How a {@link MemDevice} is made. */
export interface MemOptions {
  /** Most memory that can be plugged, bytes: a multiple of 128 MiB, up to 1 TiB. */
  readonly regionSize: number
  /** What the guest shall have of it from the start, bytes: a multiple of 2 MiB. Default 0. */
  readonly requestedSize?: number
  /** The guest plugged or unplugged memory: {@link MemDevice.pluggedSize} is new. Must not throw. */
  readonly onPlugged?: () => void
}

/** What happened so far. */
export interface MemCounters {
  /** Bytes of unplugged blocks that went back to the host. */
  freedBytes: number
  /** Requests that were refused: blocks that there are not, or not in that state, or more than was asked for. */
  refusals: number
  /** Unplugged blocks that the host did not take back. */
  failures: number
}

/**
 * Memory that a running guest is given, and gives back, in blocks of 2 MiB. The host says how much it shall have
 * ({@link setRequestedSize}), the driver plugs and unplugs; unplugged blocks go back to the host at once.
 *
 * Whoever runs the guest places {@link deviceMemory}, and makes guest RAM of it. It can be touched, and takes memory of the
 * host, also where it is not plugged: the region's size is the limit that holds against a guest that breaks the rules.
 *
 * @see virtio 1.3, section 5.15
 *
 * @example
 * ```ts
 * import { MemDevice } from "@ts-vmm/virtio-devices/mem"
 *
 * const device = new MemDevice({ regionSize: 2 ** 30 })
 * device.setRequestedSize(256 * 2 ** 20)
 * // later: device.pluggedSize
 * ```
 */
export class MemDevice implements VirtioDevice {
  readonly type = VIRTIO_ID.mem
  readonly queueSizes: readonly number[] = [QUEUE_SIZE]
  readonly features = defs.VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE
  readonly deviceMemory: DeviceMemory
  readonly counters: MemCounters = { freedBytes: 0, refusals: 0, failures: 0 }
  readonly #config = new DataView(new ArrayBuffer(defs.CONFIG_SIZE))
  readonly #blocks: Blocks
  readonly #onPlugged: (() => void) | undefined
  #start = 0
  #requestedSize = 0
  #ctx: DeviceContext | undefined

  /** @throws RangeError for sizes that cannot be */
  constructor({ regionSize, requestedSize = 0, onPlugged }: MemOptions) {
    if (!(regionSize > 0 && regionSize <= MAX_REGION && regionSize % defs.REGION_ALIGNMENT === 0))
      throw new RangeError(`no size of a memory region: ${regionSize}`)
    this.#blocks = new Blocks(regionSize / defs.BLOCK_SIZE)
    this.#onPlugged = onPlugged
    const placedAt = (start: GuestAddress) => {
      this.#start = start
      this.#setConfig(defs.CONFIG.addr, start)
    }
    this.deviceMemory = { size: regionSize, alignment: defs.REGION_ALIGNMENT, parts: "ram", placedAt }
    this.#setConfig(defs.CONFIG.blockSize, defs.BLOCK_SIZE)
    this.#setConfig(defs.CONFIG.regionSize, regionSize)
    this.#setConfig(defs.CONFIG.usableRegionSize, regionSize)
    this.setRequestedSize(requestedSize)
  }

  /** Bytes that the guest shall have. */
  get requestedSize(): number {
    return this.#requestedSize
  }

  /** Bytes that it has. */
  get pluggedSize(): number {
    return this.#blocks.count * defs.BLOCK_SIZE
  }

  /**
   * Asks the guest to have `bytes`. It does so when, and as far as, it can: watch {@link pluggedSize}.
   * @throws RangeError for what is no multiple of 2 MiB from 0 to the region's size
   */
  setRequestedSize(bytes: number): void {
    if (!(bytes >= 0 && bytes <= this.deviceMemory.size && bytes % defs.BLOCK_SIZE === 0))
      throw new RangeError(`no size of plugged memory: ${bytes}`)
    this.#requestedSize = bytes
    this.#setConfig(defs.CONFIG.requestedSize, bytes)
    this.#ctx?.configChanged()
  }

  readConfig(offset: number, into: Uint8Array): void {
    into.fill(0)
    into.set(new Uint8Array(this.#config.buffer).subarray(offset, offset + into.length))
  }

  activate(ctx: DeviceContext): void {
    this.#ctx = ctx
  }

  notify(index: number): void {
    if (index !== defs.MEM_QUEUE) return
    this.#ctx?.drain(index, chain => this.#answer(chain))
  }

  /** What is plugged stays: a driver that comes again asks for its state (5.15.5). */
  reset(): void {
    this.#ctx = undefined
  }

  /** @returns bytes written */
  #answer(chain: DescriptorChain): number {
    const request = readRequest(chain)
    const response = new DataView(new ArrayBuffer(defs.RESPONSE_SIZE))
    const type = request ? this.#serve(request, response) : defs.VIRTIO_MEM_RESP_ERROR
    if (type !== defs.VIRTIO_MEM_RESP_ACK) this.counters.refusals++
    response.setUint16(0, type, true)
    return chain.write(0, new Uint8Array(response.buffer))
  }

  #serve(request: MemRequest, response: DataView): number {
    if (request.type === defs.VIRTIO_MEM_REQ_UNPLUG_ALL) return this.#unplugAll()
    const first = (request.addr - this.#start) / defs.BLOCK_SIZE
    const count = request.blocks
    if (!(Number.isInteger(first) && first >= 0 && count > 0 && first + count <= this.#blocks.length))
      return defs.VIRTIO_MEM_RESP_ERROR
    const state = this.#blocks.state(first, count)
    switch (request.type) {
      case defs.VIRTIO_MEM_REQ_PLUG:
        return this.#plug(first, count, state)
      case defs.VIRTIO_MEM_REQ_UNPLUG:
        return this.#unplug(first, count, state)
      case defs.VIRTIO_MEM_REQ_STATE:
        response.setUint16(8, state, true)
        return defs.VIRTIO_MEM_RESP_ACK
      default:
        return defs.VIRTIO_MEM_RESP_ERROR
    }
  }

  #plug(first: number, count: number, state: number): number {
    if (state !== defs.VIRTIO_MEM_STATE_UNPLUGGED) return defs.VIRTIO_MEM_RESP_ERROR
    if (this.pluggedSize + count * defs.BLOCK_SIZE > this.#requestedSize) return defs.VIRTIO_MEM_RESP_NACK
    this.#blocks.plug(first, count)
    this.#tell()
    return defs.VIRTIO_MEM_RESP_ACK
  }

  #unplug(first: number, count: number, state: number): number {
    if (state !== defs.VIRTIO_MEM_STATE_PLUGGED) return defs.VIRTIO_MEM_RESP_ERROR
    this.#blocks.unplug(first, count)
    this.#free(first, count)
    this.#tell()
    return defs.VIRTIO_MEM_RESP_ACK
  }

  #unplugAll(): number {
    for (const [first, count] of [...this.#blocks.runs()]) {
      this.#blocks.unplug(first, count)
      this.#free(first, count)
    }
    this.#tell()
    return defs.VIRTIO_MEM_RESP_ACK
  }

  #free(first: number, count: number): void {
    const size = count * defs.BLOCK_SIZE
    try {
      this.#ctx?.memory.discard(this.#start + first * defs.BLOCK_SIZE, size)
      this.counters.freedBytes += size
    } catch {
      // Memory that the host cannot free, or that was closed: the guest loses nothing by it, the host gains nothing.
      this.counters.failures++
    }
  }

  #tell(): void {
    this.#setConfig(defs.CONFIG.pluggedSize, this.pluggedSize)
    this.#onPlugged?.()
  }

  #setConfig(field: number, value: number): void {
    this.#config.setBigUint64(field, BigInt(value), true)
  }
}
