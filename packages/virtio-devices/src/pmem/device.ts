import type { GuestAddress } from "@ts-vmm/vm-memory"
import type { DeviceContext, VirtioDevice } from "../device.js"
import type { DeviceMemory, DeviceMemoryPart } from "../device-memory.js"
import { VIRTIO_ID } from "../ids.js"
import type { DescriptorChain } from "../queue/chain.js"
import { PmemFiles, type PmemOptions, type PmemPart } from "./backend.js"
import * as defs from "./defs.js"

const QUEUE_SIZE = 64

/** What happened so far. */
export interface PmemCounters {
  /** Requests that were answered with success. */
  flushes: number
  /** Requests that were no flush, or whose files could not be written. */
  failures: number
}

/**
 * Persistent memory: files of the host in the guest's address space. Their pages are those of the host's page cache, for
 * every guest that maps them, and with DAX the guest has no copy of its own.
 *
 * Whoever runs the guest places {@link deviceMemory}; a transport without an address space of its own (vhost-user) cannot
 * have this device. What a guest writes to read-only memory goes nowhere.
 *
 * @see virtio 1.3, section 5.19
 *
 * @example
 * ```ts
 * import { PmemDevice } from "@ts-vmm/virtio-devices/pmem"
 *
 * const device = new PmemDevice([{ path: "image.erofs", size: 64 * 2 ** 20 }])
 * // in the guest: mount -t erofs -o ro,dax=always /dev/pmem0 /mnt
 * ```
 */
export class PmemDevice implements VirtioDevice {
  readonly type = VIRTIO_ID.pmem
  readonly queueSizes: readonly number[] = [QUEUE_SIZE]
  readonly features = 0n
  readonly deviceMemory: DeviceMemory & { readonly parts: readonly DeviceMemoryPart[] }
  readonly counters: PmemCounters = { flushes: 0, failures: 0 }
  readonly #config = new DataView(new ArrayBuffer(defs.CONFIG_SIZE))
  readonly #files: PmemFiles
  #ctx: DeviceContext | undefined
  /** Flushes that a sync which began after them will answer. */
  #waiting: DescriptorChain[] = []
  #syncing = false

  /**
   * @param files - what it consists of, end to end; zeroes follow up to the next 2 MiB
   * @throws PmemError `part-size`, `file`; SysError `ENOMEM`, `EMFILE`
   */
  constructor(files: readonly PmemPart[], options: PmemOptions = {}) {
    this.#files = new PmemFiles(files, options)
    const { size, parts } = this.#files
    const placedAt = (start: GuestAddress) => this.#setConfig(defs.CONFIG.start, start)
    this.deviceMemory = { size, parts, alignment: defs.PMEM_ALIGNMENT, placedAt }
    this.#setConfig(defs.CONFIG.size, size)
  }

  readConfig(offset: number, into: Uint8Array): void {
    into.fill(0)
    into.set(new Uint8Array(this.#config.buffer).subarray(offset, offset + into.length))
  }

  activate(ctx: DeviceContext): void {
    this.#ctx = ctx
  }

  notify(index: number): void {
    const ctx = this.#ctx
    if (!ctx || index !== defs.PMEM_QUEUE) return
    ctx.drain(index, chain => {
      if (!isFlush(chain)) return this.#answer(chain, defs.RET_FAILED)
      this.#waiting.push(chain)
      return undefined
    })
    this.#sync(ctx)
  }

  reset(): void {
    this.#ctx = undefined
    this.#waiting = []
  }

  /** Lets go of the files; for after the end of the guest. */
  close(): void {
    this.#files.close()
  }

  /** One at a time, for all that wait: the queue's size bounds them. */
  #sync(ctx: DeviceContext): void {
    if (this.#syncing || this.#waiting.length === 0) return
    const chains = this.#waiting
    this.#waiting = []
    this.#syncing = true
    const end = (ret: number) => {
      this.#syncing = false
      for (const chain of ctx.signal.aborted ? [] : chains)
        ctx.complete(defs.PMEM_QUEUE, chain, this.#answer(chain, ret))
      if (this.#ctx) this.#sync(this.#ctx)
    }
    this.#files.flush().then(
      () => end(defs.RET_OK),
      () => end(defs.RET_FAILED),
    )
  }

  /** @returns bytes written */
  #answer(chain: DescriptorChain, ret: number): number {
    if (ret === defs.RET_OK) this.counters.flushes++
    else this.counters.failures++
    const response = new DataView(new ArrayBuffer(defs.RESPONSE_SIZE))
    response.setUint32(0, ret, true)
    return chain.write(0, new Uint8Array(response.buffer))
  }

  #setConfig(field: number, value: number): void {
    this.#config.setBigUint64(field, BigInt(value), true)
  }
}

/** The request is copied once; what is longer or shorter is none. */
function isFlush(chain: DescriptorChain): boolean {
  const request = new DataView(new ArrayBuffer(defs.REQUEST_SIZE))
  const read = chain.read(0, new Uint8Array(request.buffer))
  return (
    read === defs.REQUEST_SIZE &&
    chain.readableLength === defs.REQUEST_SIZE &&
    request.getUint32(0, true) === defs.VIRTIO_PMEM_REQ_TYPE_FLUSH
  )
}
