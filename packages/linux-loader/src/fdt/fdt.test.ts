import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import { Cmdline } from "../cmdline.js"
import type { LoadedKernel } from "../loaded-kernel.js"
import { fixture } from "../testing/fixture.js"
import { bytesAt, MIB } from "../testing/memory.js"
import { refusedWith } from "../testing/refused.js"
import { describeBoot, FDT_MAX_SIZE, writeFdt } from "./boot.js"
import { FdtBuilder } from "./builder.js"

const RAM = 0x4000_0000
const KERNEL: LoadedKernel = {
  format: "arm64-image",
  loadAddress: RAM,
  endAddress: RAM + 2 * MIB,
  entry: RAM,
}

/** The tree of test/fixtures/tree.dts. */
function tree(): FdtBuilder {
  const fdt = new FdtBuilder().reserve(RAM, 0x10000)
  describeBoot(fdt, arrayBufferMemory([{ start: RAM, size: 8 * MIB }]), {
    cmdline: new Cmdline("console=ttyAMA0 quiet"),
    stdoutPath: "/uart@9000000",
    rngSeed: Uint8Array.of(1, 2, 3, 4, 5),
    initrd: { address: 0x4040_0000, size: 0x123 },
  })
  let interruptParent = 0
  fdt.root.node("intc", intc => {
    interruptParent = intc.phandle()
    intc.empty("interrupt-controller").u32("#interrupt-cells", 3)
  })
  fdt.root.node("uart@9000000", uart =>
    uart
      .string("compatible", "arm,pl011", "arm,primecell")
      .u64("reg", 0x900_0000, 0x1000)
      .u32("interrupt-parent", interruptParent)
      .u32("interrupts", 0, 1, 4),
  )
  return fdt
}

describe("FdtBuilder", () => {
  test("writes the bytes that dtc makes of the same tree (tree.dts)", () => {
    expect(Buffer.from(tree().finish()).toString("hex")).toBe(
      Buffer.from(fixture("tree.dtb")).toString("hex"),
    )
  })

  test("names the boot CPU", () => {
    const blob = new FdtBuilder().finish(3)
    expect(new DataView(blob.buffer, blob.byteOffset).getUint32(28)).toBe(3)
  })

  test("gives a node one phandle, and every node another one", () => {
    const { root } = new FdtBuilder()
    const handles: number[] = []
    root.node("a", a => handles.push(a.phandle(), a.phandle()))
    root.node("b", b => b.node("c", c => handles.push(c.phandle())))
    expect(handles).toEqual([1, 1, 2])
  })

  test("keeps a copy of what it is given", () => {
    const value = Uint8Array.of(1)
    const { root } = new FdtBuilder()
    root.bytes("a", value)
    value[0] = 2
    expect(root.properties.get("a")).toEqual(Uint8Array.of(1))
  })

  test.each<[string, (fdt: FdtBuilder) => unknown]>([
    ["a node name with a slash", fdt => fdt.root.node("a/b")],
    ["an empty node name", fdt => fdt.root.node("")],
    ["a node name that starts with a digit", fdt => fdt.root.node("9p")],
    ["a node name of 32 characters", fdt => fdt.root.node("a".repeat(32))],
    ["a second node of the same name", fdt => fdt.root.node("a").node("a")],
    ["a property name with a space", fdt => fdt.root.empty("a b")],
    ["a property name of 32 characters", fdt => fdt.root.empty("a".repeat(32))],
    ["a second property of the same name", fdt => fdt.root.empty("a").empty("a")],
    ["a cell of 33 bits", fdt => fdt.root.u32("a", 2 ** 32)],
    ["a negative value", fdt => fdt.root.u64("a", -1)],
    ["a number above 2^53", fdt => fdt.root.u64("a", 2 ** 60)],
    ["a bigint of 65 bits", fdt => fdt.root.u64("a", 2n ** 64n)],
    ["a string with a NUL", fdt => fdt.root.string("a", "b\0c")],
    ["an empty reservation", fdt => fdt.reserve(0, 0)],
    ["a reservation above 2^53", fdt => fdt.reserve(2 ** 53, 1)],
  ])("refuses %s", (_, build) => {
    refusedWith("invalid-argument", () => build(new FdtBuilder()))
  })

  test("takes u64 values of all 64 bits as bigint", () => {
    const { root } = new FdtBuilder()
    expect(root.u64("a", 2n ** 64n - 1n).properties.get("a")).toEqual(new Uint8Array(8).fill(255))
  })
})

describe("writeFdt", () => {
  const memory = () => arrayBufferMemory([{ start: RAM, size: 8 * MIB }])

  test("lies at the top of RAM, 8-byte aligned", () => {
    const ram = memory()
    const blob = tree().finish()
    const at = writeFdt(ram, blob, { kernel: KERNEL })
    expect(at).toBe(RAM + 8 * MIB - 720)
    expect(bytesAt(ram, at, blob.length)).toEqual(Uint8Array.from(blob))
  })

  test("lies below an initrd at the top of RAM", () => {
    const initrd = { address: RAM + 7 * MIB, size: MIB }
    expect(writeFdt(memory(), new Uint8Array(100), { kernel: KERNEL, initrd })).toBe(RAM + 7 * MIB - 104)
  })

  test("refuses more than kernels map, and RAM without room", () => {
    const large = new Uint8Array(FDT_MAX_SIZE + 1)
    refusedWith("table-no-room", () => writeFdt(memory(), large, { kernel: KERNEL }))
    const initrd = { address: RAM + 2 * MIB, size: 6 * MIB }
    refusedWith("table-no-room", () => writeFdt(memory(), new Uint8Array(8), { kernel: KERNEL, initrd }))
  })
})
