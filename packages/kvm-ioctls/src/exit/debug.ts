import { kvmDebugExitArchArm64 } from "../structs/arm64.js"
import { KVM_RUN_OFFSETS as AT } from "../structs/kvm-run.js"
import { kvmDebugExitArchX86 } from "../structs/x86-64.js"

/** A breakpoint, watchpoint or single step that `setGuestDebug` asked for. */
export type DebugExit = DebugExitX86 | DebugExitArm64

/** On x86-64. */
export interface DebugExitX86 {
  readonly reason: "debug"
  readonly arch: "x86-64"
  /** 1 is #DB, 3 is #BP. */
  readonly exception: number
  readonly pc: bigint
  readonly dr6: bigint
  readonly dr7: bigint
}

/** On arm64. */
export interface DebugExitArm64 {
  readonly reason: "debug"
  readonly arch: "arm64"
  /** Exception syndrome (ESR_EL2). */
  readonly hsr: number
  readonly hsr_high: number
  /** Address of a watchpoint. */
  readonly far: bigint
}

/** @param arch - the host's, in Node's words */
export function decodeDebug(page: DataView, arch: string = process.arch): DebugExit {
  const at = page.byteOffset + AT["debug.arch"]
  return arch === "arm64"
    ? {
        reason: "debug",
        arch,
        ...kvmDebugExitArchArm64.decode(bytesAt(page, at, kvmDebugExitArchArm64.span)),
      }
    : {
        reason: "debug",
        arch: "x86-64",
        ...kvmDebugExitArchX86.decode(bytesAt(page, at, kvmDebugExitArchX86.span)),
      }
}

function bytesAt(page: DataView, offset: number, length: number): Uint8Array {
  return new Uint8Array(page.buffer, offset, length)
}
