import {
  KVM_EXIT_HLT,
  KVM_EXIT_INTR,
  KVM_EXIT_IO,
  KVM_EXIT_IO_OUT,
  KVM_EXIT_MMIO,
} from "./bindings/common.js"
import { type ColdExit, decodeColdExit } from "./exit/cold.js"
import { KVM_RUN_OFFSETS as AT } from "./structs/kvm-run.js"

/** The guest reads or writes a port. */
export interface IoExit {
  readonly reason: "io"
  readonly direction: "in" | "out"
  readonly port: number
  /** Bytes of one access: 1, 2 or 4. */
  readonly size: number
  /** Accesses; more than 1 for string instructions. */
  readonly count: number
  /** `size * count` bytes of the page: what was written, or where the answer to a read goes before the next `run`. */
  readonly data: Uint8Array
}

/** The guest reads or writes memory that no slot backs. */
export interface MmioExit {
  readonly reason: "mmio"
  readonly address: number
  readonly isWrite: boolean
  /** 1 to 8 bytes of the page: what was written, or where the answer to a read goes before the next `run`. */
  readonly data: Uint8Array
}

/**
 * Why a vCPU stopped. `data` and the answering methods work on the page that the vCPU shares with the kernel: they are
 * good until the next `run`.
 *
 * @example
 * ```ts
 * const exit = vcpu.run()
 * switch (exit.reason) {
 *   case "io":
 *     if (exit.direction === "in") exit.data.fill(0xff)
 *     break
 *   case "hlt":
 *     return
 *   default:
 *     throw new KvmError("unexpected-exit", `the guest stopped: ${exit.reason}`)
 * }
 * ```
 *
 * @see Documentation/virt/kvm/api.rst, 5. The kvm_run structure
 */
export type VcpuExit = IoExit | MmioExit | PlainExit | ColdExit

/** Exits that say nothing more: HLT without a local APIC in the kernel; a signal or `immediate_exit`. */
export type PlainExit = { readonly reason: "hlt" } | { readonly reason: "intr" }

/** Exit that {@link VcpuFd.run} gives when a signal or `immediate_exit` stopped it. */
export const INTR_EXIT: PlainExit = { reason: "intr" }
const HLT_EXIT: PlainExit = { reason: "hlt" }
/** From here on a guest-physical address would not be a safe integer; no processor has so many bits. */
const HIGH_WORD_LIMIT = 2 ** 21

/**
 * What the kvm_run page says.
 *
 * @param page - the vCPU's whole mapping
 */
export function decodeExit(page: DataView): VcpuExit {
  const number = page.getUint32(AT.exit_reason, true)
  switch (number) {
    case KVM_EXIT_IO:
      return decodeIo(page)
    case KVM_EXIT_MMIO:
      return decodeMmio(page)
    case KVM_EXIT_HLT:
      return HLT_EXIT
    case KVM_EXIT_INTR:
      return INTR_EXIT
    default:
      return decodeColdExit(page, number)
  }
}

function decodeIo(page: DataView): VcpuExit {
  const size = page.getUint8(AT["io.size"])
  const count = page.getUint32(AT["io.count"], true)
  // The kernel puts it on the page after the first; an offset into other memory is not possible with a view.
  const offset = page.getUint32(AT["io.data_offset"], true)
  return {
    reason: "io",
    direction: page.getUint8(AT["io.direction"]) === KVM_EXIT_IO_OUT ? "out" : "in",
    port: page.getUint16(AT["io.port"], true),
    size,
    count,
    data: new Uint8Array(page.buffer, page.byteOffset + offset, size * count),
  }
}

function decodeMmio(page: DataView): VcpuExit {
  const high = page.getUint32(AT["mmio.phys_addr"] + 4, true)
  if (high >= HIGH_WORD_LIMIT) return decodeColdExit(page, KVM_EXIT_MMIO)
  const length = Math.min(page.getUint32(AT["mmio.len"], true), 8)
  return {
    reason: "mmio",
    address: high * 2 ** 32 + page.getUint32(AT["mmio.phys_addr"], true),
    isWrite: page.getUint8(AT["mmio.is_write"]) !== 0,
    data: new Uint8Array(page.buffer, page.byteOffset + AT["mmio.data"], length),
  }
}
