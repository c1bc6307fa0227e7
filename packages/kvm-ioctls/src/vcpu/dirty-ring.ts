import type { Mapping } from "@ts-vmm/native"
import { KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET } from "../bindings/common.js"
import { kvmDirtyGfn } from "../structs/any-arch.js"

/** Of struct kvm_dirty_gfn. */
const FLAGS_OFFSET = 0
const SLOT_OFFSET = 4
const GFN_OFFSET = 8

/** A page that the guest wrote. */
export interface DirtyPage {
  /** Memory slot; bits 16 and up are the address space. */
  readonly slot: number
  /** Page inside the slot. */
  readonly page: number
}

/**
 * One vCPU's ring of pages that the guest wrote. Harvest it after each exit `dirty-ring-full` and whenever the pages
 * are wanted, then call {@link VmFd.resetDirtyRings} so that the kernel watches them again.
 *
 * @see Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING
 */
export class DirtyRing implements Disposable {
  readonly #mapping: Mapping
  readonly #view: DataView
  /** The kernel's writes are seen in order through atomics only. */
  readonly #words: Int32Array
  readonly #entries: number
  #next = 0

  /** @param mapping - the ring; owned from now on */
  constructor(mapping: Mapping) {
    this.#mapping = mapping
    this.#view = new DataView(mapping.buffer)
    this.#words = new Int32Array(mapping.buffer)
    this.#entries = mapping.size / kvmDirtyGfn.span
  }

  /** Takes the next dirty page out of the ring; undefined when there is none. */
  read(): DirtyPage | undefined {
    const at = this.#next * kvmDirtyGfn.span
    const flags = (at + FLAGS_OFFSET) / 4
    if ((Atomics.load(this.#words, flags) & KVM_DIRTY_GFN_F_DIRTY) === 0) return undefined
    const slot = this.#view.getUint32(at + SLOT_OFFSET, true)
    const page = Number(this.#view.getBigUint64(at + GFN_OFFSET, true))
    Atomics.store(this.#words, flags, KVM_DIRTY_GFN_F_RESET)
    this.#next = (this.#next + 1) % this.#entries
    return { slot, page }
  }

  /** All that are there. */
  *harvest(): Generator<DirtyPage> {
    for (let page = this.read(); page !== undefined; page = this.read()) yield page
  }

  /** Unmaps the ring. */
  close(): void {
    this.#mapping.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
