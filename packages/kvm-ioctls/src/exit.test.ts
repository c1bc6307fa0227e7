import { describe, expect, test } from "vitest"
import * as kvm from "./bindings/common.js"
import { decodeDebug } from "./exit/debug.js"
import { decodeExit, type VcpuExit } from "./exit.js"
import {
  KVM_RUN_OFFSETS as AT,
  KVM_HYPERV_EXIT_OFFSETS as HYPERV,
  KVM_XEN_EXIT_OFFSETS as XEN,
} from "./structs/kvm-run.js"

/** A kvm_run mapping of three pages that says `number`, not at the start of its buffer. */
function pageWith(number: number, write: (page: DataView) => void = () => undefined): DataView {
  const page = new DataView(new ArrayBuffer(64 + 3 * 4096), 64)
  page.setUint32(AT.exit_reason, number, true)
  write(page)
  return page
}

/** What is left of an exit without the methods that answer it. */
function plain(exit: VcpuExit): object {
  return Object.fromEntries(Object.entries(exit).filter(([, value]) => typeof value !== "function"))
}

function answers(page: DataView, offset: number, answer: (exit: never) => void): bigint {
  answer(decodeExit(page) as never)
  return page.getBigUint64(offset, true)
}

describe("ports", () => {
  const page = pageWith(kvm.KVM_EXIT_IO, view => {
    view.setUint8(AT["io.direction"], kvm.KVM_EXIT_IO_IN)
    view.setUint8(AT["io.size"], 2)
    view.setUint16(AT["io.port"], 0xcf8, true)
    view.setUint32(AT["io.count"], 3, true)
    view.setBigUint64(AT["io.data_offset"], 4096n, true)
  })

  test("an exit has size, count and the bytes of all accesses", () => {
    expect(decodeExit(page)).toEqual({
      reason: "io",
      direction: "in",
      port: 0xcf8,
      size: 2,
      count: 3,
      data: new Uint8Array(6),
    })
  })

  test("the bytes are the page's own: writing them answers the guest", () => {
    const exit = decodeExit(page)
    if (exit.reason === "io") exit.data.set([1, 2, 3])
    expect(page.getUint32(4096, true)).toBe(0x030201)
  })

  test("the other direction is a write", () => {
    page.setUint8(AT["io.direction"], kvm.KVM_EXIT_IO_OUT)
    expect(decodeExit(page)).toMatchObject({ direction: "out" })
  })

  test("an offset beyond the mapping is refused, never read", () => {
    page.setBigUint64(AT["io.data_offset"], 3n * 4096n - 2n, true)
    expect(() => decodeExit(page)).toThrow(RangeError)
  })
})

describe("memory", () => {
  const mmio = (address: bigint, length: number, write: boolean) =>
    pageWith(kvm.KVM_EXIT_MMIO, view => {
      view.setBigUint64(AT["mmio.phys_addr"], address, true)
      view.setUint32(AT["mmio.len"], length, true)
      view.setUint8(AT["mmio.is_write"], write ? 1 : 0)
      view.setBigUint64(AT["mmio.data"], 0x8877_6655_4433_2211n, true)
    })

  test.each([1, 2, 4, 8])("an access of %i bytes has as many", length => {
    expect(decodeExit(mmio(0xfee0_0000n, length, true))).toEqual({
      reason: "mmio",
      address: 0xfee0_0000,
      isWrite: true,
      data: Uint8Array.of(0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88).subarray(0, length),
    })
  })

  test("an address above 4 GiB keeps every bit", () => {
    expect(decodeExit(mmio((1n << 52n) - 8n, 8, false))).toMatchObject({
      address: 2 ** 52 - 8,
      isWrite: false,
    })
  })

  test("an address that no number holds becomes an unknown exit", () => {
    expect(decodeExit(mmio(1n << 53n, 4, false))).toMatchObject({
      reason: "unknown",
      number: kvm.KVM_EXIT_MMIO,
    })
  })

  test("a length that the page has no room for is cut to 8", () => {
    expect(decodeExit(mmio(0n, 200, false))).toMatchObject({ data: { length: 8 } })
  })
})

describe("exits that say nothing more than their name", () => {
  test.each([
    [kvm.KVM_EXIT_HLT, "hlt"],
    [kvm.KVM_EXIT_INTR, "intr"],
    [kvm.KVM_EXIT_SHUTDOWN, "shutdown"],
    [kvm.KVM_EXIT_IRQ_WINDOW_OPEN, "irq-window-open"],
    [kvm.KVM_EXIT_SET_TPR, "set-tpr"],
    [kvm.KVM_EXIT_NMI, "nmi"],
    [kvm.KVM_EXIT_WATCHDOG, "watchdog"],
    [kvm.KVM_EXIT_DIRTY_RING_FULL, "dirty-ring-full"],
    [kvm.KVM_EXIT_AP_RESET_HOLD, "ap-reset-hold"],
    [kvm.KVM_EXIT_X86_BUS_LOCK, "x86-bus-lock"],
  ])("%i is %s", (number, reason) => {
    expect(decodeExit(pageWith(number))).toEqual({ reason })
  })

  test.each([kvm.KVM_EXIT_DCR, kvm.KVM_EXIT_TDX, 4711])("%i, which has no name here, is unknown", number => {
    expect(decodeExit(pageWith(number))).toEqual({ reason: "unknown", number, hardwareReason: 0n })
  })

  test("an exit that the kernel does not know has the processor's reason", () => {
    const page = pageWith(kvm.KVM_EXIT_UNKNOWN, view =>
      view.setBigUint64(AT["hw.hardware_exit_reason"], 0xffff_ffff_0000_0001n, true),
    )
    expect(decodeExit(page)).toEqual({ reason: "unknown", number: 0, hardwareReason: 0xffff_ffff_0000_0001n })
  })
})

describe("exits with values", () => {
  test.each<[number, (view: DataView) => void, object]>([
    [
      kvm.KVM_EXIT_FAIL_ENTRY,
      view => {
        view.setBigUint64(AT["fail_entry.hardware_entry_failure_reason"], 7n, true)
        view.setUint32(AT["fail_entry.cpu"], 3, true)
      },
      { reason: "fail-entry", hardwareReason: 7n, cpu: 3 },
    ],
    [
      kvm.KVM_EXIT_EXCEPTION,
      view => {
        view.setUint32(AT["ex.exception"], 13, true)
        view.setUint32(AT["ex.error_code"], 9, true)
      },
      { reason: "exception", exception: 13, errorCode: 9 },
    ],
    [
      kvm.KVM_EXIT_TPR_ACCESS,
      view => {
        view.setBigUint64(AT["tpr_access.rip"], 0x1000n, true)
        view.setUint32(AT["tpr_access.is_write"], 1, true)
      },
      { reason: "tpr-access", rip: 0x1000n, isWrite: true },
    ],
    [
      kvm.KVM_EXIT_SYSTEM_EVENT,
      view => {
        view.setUint32(AT["system_event.type"], kvm.KVM_SYSTEM_EVENT_RESET, true)
        view.setUint32(AT["system_event.ndata"], 2, true)
        view.setBigUint64(AT["system_event.data"] + 8, 5n, true)
      },
      { reason: "system-event", type: kvm.KVM_SYSTEM_EVENT_RESET, data: [0n, 5n] },
    ],
    [
      kvm.KVM_EXIT_IOAPIC_EOI,
      view => view.setUint8(AT["eoi.vector"], 0x31),
      { reason: "ioapic-eoi", vector: 0x31 },
    ],
    [
      kvm.KVM_EXIT_NOTIFY,
      view => view.setUint32(AT["notify.flags"], 1, true),
      { reason: "notify", flags: 1 },
    ],
    [
      kvm.KVM_EXIT_MEMORY_FAULT,
      view => {
        view.setBigUint64(AT["memory_fault.flags"], 8n, true)
        view.setBigUint64(AT["memory_fault.gpa"], 0x10_0000n, true)
        view.setBigUint64(AT["memory_fault.size"], 4096n, true)
      },
      { reason: "memory-fault", flags: 8n, gpa: 0x10_0000n, size: 4096n },
    ],
    [
      kvm.KVM_EXIT_ARM_NISV,
      view => {
        view.setBigUint64(AT["arm_nisv.esr_iss"], 1n, true)
        view.setBigUint64(AT["arm_nisv.fault_ipa"], 2n, true)
      },
      { reason: "arm-nisv", esrIss: 1n, faultIpa: 2n },
    ],
    [
      kvm.KVM_EXIT_ARM_SEA,
      view => {
        view.setBigUint64(AT["arm_sea.flags"], 1n, true)
        view.setBigUint64(AT["arm_sea.esr"], 2n, true)
        view.setBigUint64(AT["arm_sea.gva"], 3n, true)
        view.setBigUint64(AT["arm_sea.gpa"], 4n, true)
      },
      { reason: "arm-sea", flags: 1n, esr: 2n, gva: 3n, gpa: 4n },
    ],
  ])("%i", (number, write, exit) => {
    expect(decodeExit(pageWith(number, write))).toEqual(exit)
  })

  test("counts that the kernel could not have written are cut to what there is room for", () => {
    const event = pageWith(kvm.KVM_EXIT_SYSTEM_EVENT, view =>
      view.setUint32(AT["system_event.ndata"], 0xffff_ffff, true),
    )
    expect(decodeExit(event)).toMatchObject({ data: { length: 16 } })
    const error = pageWith(kvm.KVM_EXIT_INTERNAL_ERROR, view =>
      view.setUint32(AT["internal.ndata"], 99, true),
    )
    expect(decodeExit(error)).toMatchObject({ data: { length: 16 } })
  })

  test("a failed emulation shows the instruction", () => {
    const page = pageWith(kvm.KVM_EXIT_INTERNAL_ERROR, view => {
      view.setUint32(AT["internal.suberror"], kvm.KVM_INTERNAL_ERROR_EMULATION, true)
      view.setUint32(AT["internal.ndata"], 3, true)
      view.setBigUint64(AT["emulation_failure.flags"], 1n, true)
      view.setUint8(AT["emulation_failure.insn_size"], 2)
      view.setUint16(AT["emulation_failure.insn_bytes"], 0x0b0f, true)
    })
    expect(decodeExit(page)).toMatchObject({
      reason: "internal-error",
      instruction: Uint8Array.of(0x0f, 0x0b),
    })
  })

  test("another internal error has no instruction", () => {
    const page = pageWith(kvm.KVM_EXIT_INTERNAL_ERROR, view => {
      view.setUint32(AT["internal.suberror"], kvm.KVM_INTERNAL_ERROR_SIMUL_EX, true)
      view.setUint32(AT["internal.ndata"], 1, true)
      view.setBigUint64(AT["internal.data"], 0xabcn, true)
    })
    expect(decodeExit(page)).toEqual({
      reason: "internal-error",
      suberror: kvm.KVM_INTERNAL_ERROR_SIMUL_EX,
      data: [0xabcn],
      instruction: new Uint8Array(0),
    })
  })
})

describe("debug exits", () => {
  const page = pageWith(kvm.KVM_EXIT_DEBUG, view => {
    view.setUint32(AT["debug.arch"], 3, true)
    view.setUint32(AT["debug.arch"] + 4, 2, true)
    view.setBigUint64(AT["debug.arch"] + 8, 0x7c00n, true)
    view.setBigUint64(AT["debug.arch"] + 16, 0x4000n, true)
  })

  test("on x86-64: exception, address and debug registers", () => {
    const exit = { reason: "debug", arch: "x86-64", exception: 3, pc: 0x7c00n, dr6: 0x4000n, dr7: 0n }
    expect(decodeDebug(page, "x64")).toEqual(exit)
  })

  test("on arm64: syndrome and address of a watchpoint", () => {
    expect(decodeDebug(page, "arm64")).toEqual({
      reason: "debug",
      arch: "arm64",
      hsr: 3,
      hsr_high: 2,
      far: 0x7c00n,
    })
  })
})

describe("exits that want an answer", () => {
  test("a hypercall", () => {
    const page = pageWith(kvm.KVM_EXIT_HYPERCALL, view => {
      view.setBigUint64(AT["hypercall.nr"], 12n, true)
      view.setBigUint64(AT["hypercall.args"] + 40, 6n, true)
      view.setBigUint64(AT["hypercall.flags"], 1n, true)
    })
    const exit = { reason: "hypercall", nr: 12n, args: [0n, 0n, 0n, 0n, 0n, 6n], flags: 1n }
    expect(plain(decodeExit(page))).toEqual(exit)
    expect(
      answers(page, AT["hypercall.ret"], (call: { answer(value: bigint): void }) => call.answer(5n)),
    ).toBe(5n)
  })

  test("a read of an MSR: a value, or #GP", () => {
    const page = pageWith(kvm.KVM_EXIT_X86_RDMSR, view => {
      view.setUint32(AT["msr.index"], 0x10a, true)
      view.setUint32(AT["msr.reason"], kvm.KVM_MSR_EXIT_REASON_UNKNOWN, true)
      view.setUint8(AT["msr.error"], 1)
    })
    const exit = decodeExit(page)
    if (exit.reason !== "x86-rdmsr") throw new Error(exit.reason)
    expect(exit).toMatchObject({ index: 0x10a, cause: kvm.KVM_MSR_EXIT_REASON_UNKNOWN })
    exit.answer(1n << 63n)
    expect([page.getUint8(AT["msr.error"]), page.getBigUint64(AT["msr.data"], true)]).toEqual([0, 1n << 63n])
    exit.refuse()
    expect(page.getUint8(AT["msr.error"])).toBe(1)
  })

  test("a write of an MSR: accepted, or #GP", () => {
    const page = pageWith(kvm.KVM_EXIT_X86_WRMSR, view => view.setBigUint64(AT["msr.data"], 9n, true))
    const exit = decodeExit(page)
    if (exit.reason !== "x86-wrmsr") throw new Error(exit.reason)
    expect(exit.value).toBe(9n)
    exit.refuse()
    expect(page.getUint8(AT["msr.error"])).toBe(1)
    exit.accept()
    expect(page.getUint8(AT["msr.error"])).toBe(0)
  })

  test("a Xen hypercall", () => {
    const page = pageWith(kvm.KVM_EXIT_XEN, view => {
      view.setUint32(AT.xen + XEN.type, kvm.KVM_EXIT_XEN_HCALL, true)
      view.setUint32(AT.xen + XEN["u.hcall.longmode"], 1, true)
      view.setBigUint64(AT.xen + XEN["u.hcall.input"], 29n, true)
      view.setBigUint64(AT.xen + XEN["u.hcall.params"], 7n, true)
    })
    const exit = { reason: "xen", longmode: true, cpl: 0, input: 29n, params: [7n, 0n, 0n, 0n, 0n, 0n] }
    expect(plain(decodeExit(page))).toEqual(exit)
    const result = AT.xen + XEN["u.hcall.result"]
    expect(answers(page, result, (call: { answer(value: bigint): void }) => call.answer(3n))).toBe(3n)
  })

  const hyperv = (type: number) =>
    pageWith(kvm.KVM_EXIT_HYPERV, view => {
      view.setUint32(AT.hyperv + HYPERV.type, type, true)
      view.setBigUint64(AT.hyperv + 8, 0x4000_0080n, true)
      view.setBigUint64(AT.hyperv + 24, 2n, true)
      view.setBigUint64(AT.hyperv + 32, 3n, true)
    })

  test("a Hyper-V hypercall", () => {
    const page = hyperv(kvm.KVM_EXIT_HYPERV_HCALL)
    const exit = { reason: "hyperv", type: "hcall", input: 0x4000_0080n, params: [2n, 3n] }
    expect(plain(decodeExit(page))).toEqual(exit)
    const result = AT.hyperv + HYPERV["u.hcall.result"]
    expect(answers(page, result, (call: { answer(value: bigint): void }) => call.answer(1n))).toBe(1n)
  })

  test("Hyper-V's interrupt controller and debugger", () => {
    expect(plain(decodeExit(hyperv(kvm.KVM_EXIT_HYPERV_SYNIC)))).toEqual({
      reason: "hyperv",
      type: "synic",
      msr: 0x4000_0080,
      control: 0n,
      eventPage: 2n,
      messagePage: 3n,
    })
    const debuggerPage = hyperv(kvm.KVM_EXIT_HYPERV_SYNDBG)
    const exit = { type: "syndbg", control: 0n, sendPage: 3n, receivePage: 0n, pendingPage: 0n }
    expect(plain(decodeExit(debuggerPage))).toMatchObject(exit)
    const status = AT.hyperv + HYPERV["u.syndbg.status"]
    expect(answers(debuggerPage, status, (call: { answer(value: bigint): void }) => call.answer(4n))).toBe(4n)
  })

  test.each([kvm.KVM_EXIT_HYPERV, kvm.KVM_EXIT_XEN])(
    "a kind of %i that has no name here is unknown",
    number => {
      const page = pageWith(number, view => view.setUint32(AT.hyperv, 77, true))
      expect(decodeExit(page)).toMatchObject({ reason: "unknown", number })
    },
  )
})
