import { KVM_EXIT_HYPERV_HCALL, KVM_EXIT_HYPERV_SYNDBG, KVM_EXIT_HYPERV_SYNIC } from "../bindings/common.js"
import { KVM_RUN_OFFSETS as AT, KVM_HYPERV_EXIT_OFFSETS as HYPERV } from "../structs/kvm-run.js"

/** Something a Hyper-V guest did that KVM leaves to the program. */
export type HypervExit = { readonly reason: "hyperv" } & (HypervSynic | HypervHypercall | HypervDebugger)

/** The guest set up its synthetic interrupt controller. */
export interface HypervSynic {
  readonly type: "synic"
  readonly msr: number
  readonly control: bigint
  readonly eventPage: bigint
  readonly messagePage: bigint
}

/** A hypercall. */
export interface HypervHypercall {
  readonly type: "hcall"
  readonly input: bigint
  readonly params: readonly bigint[]
  /** What the guest gets back. */
  answer(result: bigint): void
}

/** The guest uses the synthetic debugger. */
export interface HypervDebugger {
  readonly type: "syndbg"
  readonly msr: number
  readonly control: bigint
  readonly sendPage: bigint
  readonly receivePage: bigint
  readonly pendingPage: bigint
  answer(status: bigint): void
}

/** Undefined for a type that has no name here. */
export function decodeHyperv(page: DataView): HypervExit | undefined {
  const u32 = (offset: number) => page.getUint32(AT.hyperv + offset, true)
  const u64 = (offset: number) => page.getBigUint64(AT.hyperv + offset, true)
  const answerAt = (offset: number) => (value: bigint) => page.setBigUint64(AT.hyperv + offset, value, true)
  switch (u32(HYPERV.type)) {
    case KVM_EXIT_HYPERV_SYNIC:
      return {
        reason: "hyperv",
        type: "synic",
        msr: u32(HYPERV["u.synic.msr"]),
        control: u64(HYPERV["u.synic.control"]),
        eventPage: u64(HYPERV["u.synic.evt_page"]),
        messagePage: u64(HYPERV["u.synic.msg_page"]),
      }
    case KVM_EXIT_HYPERV_HCALL: {
      const params = HYPERV["u.hcall.params"]
      return {
        reason: "hyperv",
        type: "hcall",
        input: u64(HYPERV["u.hcall.input"]),
        params: [u64(params), u64(params + 8)],
        answer: answerAt(HYPERV["u.hcall.result"]),
      }
    }
    case KVM_EXIT_HYPERV_SYNDBG:
      return {
        reason: "hyperv",
        type: "syndbg",
        msr: u32(HYPERV["u.syndbg.msr"]),
        control: u64(HYPERV["u.syndbg.control"]),
        sendPage: u64(HYPERV["u.syndbg.send_page"]),
        receivePage: u64(HYPERV["u.syndbg.recv_page"]),
        pendingPage: u64(HYPERV["u.syndbg.pending_page"]),
        answer: answerAt(HYPERV["u.syndbg.status"]),
      }
    default:
      return undefined
  }
}
