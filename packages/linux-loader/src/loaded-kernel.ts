import type { GuestAddress } from "@ts-vmm/vm-memory"
import type { SetupHeader } from "./bzimage/setup-header.js"

/** Format that a kernel was recognised as. */
export type KernelFormat = "elf" | "bzimage" | "arm64-image"

/** A kernel in guest memory, and what the CPU set-up has to know of it. */
export interface LoadedKernel {
  /** Format of the image. */
  readonly format: KernelFormat
  /** First guest address that the kernel occupies. */
  readonly loadAddress: GuestAddress
  /**
   * First guest address after what the kernel needs for itself until it manages memory: its bss, and for a
   * bzImage the room it unpacks into (`init_size`).
   */
  readonly endAddress: GuestAddress
  /** 64-bit entry point: long mode, RSI = zero page (x86-64); x0 = device tree (arm64). */
  readonly entry: GuestAddress
  /** 32-bit PVH entry point, EBX = `hvm_start_info`, where the image has one. */
  readonly pvhEntry?: GuestAddress
  /** The bzImage's own setup header, to be passed on in the zero page. */
  readonly setupHeader?: SetupHeader
}
