import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import { loadBzImage } from "../bzimage/load-bzimage.js"
import { Cmdline } from "../cmdline.js"
import { bytesImage } from "../kernel-image.js"
import type { LoadedKernel } from "../loaded-kernel.js"
import { bzImage } from "../testing/bzimage.js"
import { bytesAt, dirtyMemory, expectUntouched, MIB } from "../testing/memory.js"
import { refusedWith } from "../testing/refused.js"
import { writeBootParams } from "./boot-params.js"
import { defaultMemoryMap } from "./memory-map.js"
import { rngSeed } from "./setup-data.js"

const ELF: LoadedKernel = { format: "elf", loadAddress: 2 * MIB, endAddress: 3 * MIB, entry: 2 * MIB }
const SIZE = 8 * MIB

function zeroPage(params: Partial<Parameters<typeof writeBootParams>[1]> = {}) {
  const memory = dirtyMemory(SIZE)
  const cmdline = new Cmdline("console=ttyS0")
  const at = writeBootParams(memory, { kernel: ELF, cmdline, memoryMap: defaultMemoryMap(memory), ...params })
  expect(at).toBe(0x7000)
  const page = bytesAt(memory, at, 4096)
  return { memory, page, view: new DataView(page.buffer) }
}

describe("writeBootParams", () => {
  test("gives an ELF kernel a minimal setup header", () => {
    const { view } = zeroPage()
    expect(view.getUint16(0x1fe, true)).toBe(0xaa55)
    expect(view.getUint32(0x202, true)).toBe(0x53726448)
    expect(view.getUint16(0x206, true)).toBe(0x20f)
    expect(view.getUint8(0x210)).toBe(0xff)
    expect(view.getUint8(0x211) & 1).toBe(1)
    expect(view.getUint32(0x228, true)).toBe(0x20000)
    expect(view.getUint32(0x238, true)).toBe(2047)
  })

  test("hands on the setup header of a bzImage", () => {
    const image = bzImage({ pref_address: 2 * MIB })
    const kernel = loadBzImage(arrayBufferMemory([{ start: 0, size: SIZE }]), bytesImage(image))
    const { page, view } = zeroPage({ kernel })
    const expected = image.slice(0x1f1, 0x26c)
    const put = new DataView(expected.buffer)
    put.setUint8(0x210 - 0x1f1, 0xff)
    put.setUint32(0x214 - 0x1f1, 2 * MIB, true)
    put.setUint32(0x228 - 0x1f1, 0x20000, true)
    expect(page.subarray(0x1f1, 0x26c)).toEqual(expected)
    // A sentinel that is not 0 makes the kernel distrust the whole page.
    expect(view.getUint8(0x1ef)).toBe(0)
    expect(page.subarray(0x26c, 0x2d0)).toEqual(new Uint8Array(0x64))
  })

  test("writes the command line with its NUL and nothing behind it", () => {
    const { memory } = zeroPage()
    expect(bytesAt(memory, 0x20000, 15)).toEqual(Uint8Array.from([...Buffer.from("console=ttyS0\0"), 0xee]))
  })

  test("tells where the initrd is, also above 4 GiB", () => {
    const { view } = zeroPage({ initrd: { address: 0x1_0000_3000, size: 0x1_0000_0005 } })
    expect([0x218, 0x21c, 0xc0, 0xc4].map(at => view.getUint32(at, true))).toEqual([0x3000, 5, 1, 1])
    const without = zeroPage().view
    expect([0x218, 0x21c, 0xc0, 0xc4].map(at => without.getUint32(at, true))).toEqual([0, 0, 0, 0])
  })

  test("writes the memory map in entries of 20 bytes", () => {
    const { view } = zeroPage()
    expect(view.getUint8(0x1e8)).toBe(4)
    const last = 0x2d0 + 3 * 20
    expect(view.getBigUint64(last, true)).toBe(BigInt(MIB))
    expect(view.getBigUint64(last + 8, true)).toBe(BigInt(SIZE - MIB))
    expect(view.getUint32(last + 16, true)).toBe(1)
    expect(view.getUint32(last + 20, true)).toBe(0)
  })

  test("names the RSDP", () => {
    expect(zeroPage({ rsdpAddress: 0xe0000 }).view.getBigUint64(0x70, true)).toBe(0xe0000n)
    expect(zeroPage().view.getBigUint64(0x70, true)).toBe(0n)
  })

  test("chains setup data, each entry 8-byte aligned", () => {
    const data = [
      rngSeed(Uint8Array.of(1, 2, 3)),
      { type: 7, data: new Uint8Array() },
      rngSeed(new Uint8Array(8)),
    ]
    const { memory, view } = zeroPage({ setupData: data })
    expect(view.getBigUint64(0x250, true)).toBe(0x21000n)
    const chain = new DataView(bytesAt(memory, 0x21000, 64).buffer)
    const entries = [0, 24, 40].map(at => [
      chain.getBigUint64(at, true),
      chain.getUint32(at + 8, true),
      chain.getUint32(at + 12, true),
    ])
    expect(entries).toEqual([
      [0x21018n, 9, 3],
      [0x21028n, 7, 0],
      [0n, 9, 8],
    ])
    expect(bytesAt(memory, 0x21010, 3)).toEqual(Uint8Array.of(1, 2, 3))
    expect(zeroPage().view.getBigUint64(0x250, true)).toBe(0n)
  })
})

describe("writeBootParams writes nothing when it refuses", () => {
  const memory = dirtyMemory(SIZE)
  const cmdline = new Cmdline("quiet")
  const memoryMap = defaultMemoryMap(memory)

  test("K6: a command line longer than this kernel takes", () => {
    const image = bytesImage(bzImage({ pref_address: 2 * MIB, cmdline_size: 4 }))
    const kernel = loadBzImage(arrayBufferMemory([{ start: 0, size: SIZE }]), image)
    const error = refusedWith("cmdline-too-long", () =>
      writeBootParams(memory, { kernel, cmdline, memoryMap }),
    )
    expect(error).toMatchObject({ need: 5, have: 4 })
    expectUntouched(memory)
  })

  test("a command line that reaches into setup data", () => {
    const long = new Cmdline("x".repeat(4096), { maxSize: 8192 })
    refusedWith("table-no-room", () => writeBootParams(memory, { kernel: ELF, cmdline: long, memoryMap }))
    expectUntouched(memory)
  })

  test("setup data without room", () => {
    const setupData = [rngSeed(new Uint8Array(0x60000))]
    refusedWith("table-no-room", () =>
      writeBootParams(memory, { kernel: ELF, cmdline, memoryMap, setupData }),
    )
    expectUntouched(memory)
  })

  test("setup data of an impossible type", () => {
    const setupData = [{ type: 2 ** 32, data: new Uint8Array() }]
    refusedWith("invalid-argument", () =>
      writeBootParams(memory, { kernel: ELF, cmdline, memoryMap, setupData }),
    )
    expectUntouched(memory)
  })

  test("no memory map", () => {
    refusedWith("memory-map", () => writeBootParams(memory, { kernel: ELF, cmdline, memoryMap: [] }))
    expectUntouched(memory)
  })

  test("memory without a low megabyte", () => {
    const high = arrayBufferMemory([{ start: MIB, size: MIB }])
    refusedWith("table-no-room", () => writeBootParams(high, { kernel: ELF, cmdline, memoryMap }))
  })
})
