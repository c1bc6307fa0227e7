import { KVM_COALESCED_MMIO_PAGE_OFFSET as ARM64_PAGE } from "../bindings/arm64.js"
import { KVM_COALESCED_MMIO_PAGE_OFFSET as X86_PAGE } from "../bindings/x86-64.js"
import { kvmCoalescedMmio } from "../structs/any-arch.js"

const PAGE_SIZE = 4096
/** struct kvm_coalesced_mmio_ring: two u32, then the entries up to the end of the page. */
const FIRST_OFFSET = 0
const LAST_OFFSET = 4
const HEADER_SIZE = 8

/** A write that the kernel kept instead of stopping the vCPU. */
export interface CoalescedWrite {
  readonly space: "mmio" | "pio"
  readonly address: number
  /** What was written: 1 to 8 bytes. */
  readonly data: Uint8Array
}

/**
 * The ring of writes to coalesced zones, behind the page of every vCPU.
 *
 * @see Documentation/virt/kvm/api.rst, 4.116
 */
export class CoalescedRing {
  readonly #view: DataView
  readonly #bytes: Uint8Array
  /** Entries that fit; the ring is full with one less. */
  readonly #size = Math.floor((PAGE_SIZE - HEADER_SIZE) / kvmCoalescedMmio.span)

  /** @param page - the vCPU's whole mapping @param arch - the host's, in Node's words */
  constructor(page: DataView, arch: string = process.arch) {
    const offset = (arch === "arm64" ? ARM64_PAGE : X86_PAGE) * PAGE_SIZE
    this.#view = new DataView(page.buffer, page.byteOffset + offset, PAGE_SIZE)
    this.#bytes = new Uint8Array(page.buffer, page.byteOffset + offset, PAGE_SIZE)
  }

  /** The next write, oldest first, and its place is free again; undefined when there is none. */
  read(): CoalescedWrite | undefined {
    const first = this.#view.getUint32(FIRST_OFFSET, true) % this.#size
    const last = this.#view.getUint32(LAST_OFFSET, true) % this.#size
    if (first === last) return undefined
    const entry = kvmCoalescedMmio.decode(this.#bytes, HEADER_SIZE + first * kvmCoalescedMmio.span)
    this.#view.setUint32(FIRST_OFFSET, (first + 1) % this.#size, true)
    return {
      space: entry.pio === 0 ? "mmio" : "pio",
      address: Number(entry.phys_addr),
      data: entry.data.slice(0, Math.min(entry.len, 8)),
    }
  }
}
