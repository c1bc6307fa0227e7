import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import type { LoaderErrorCode } from "../errors.js"
import { bytesImage } from "../kernel-image.js"
import { bzImage, type SetupField } from "../testing/bzimage.js"
import { bytesAt, dirtyMemory, expectUntouched, MIB } from "../testing/memory.js"
import { refusedWith } from "../testing/refused.js"
import { loadBzImage } from "./load-bzimage.js"

/** Stays untouched: each file that is meant for it is refused. */
const untouched = dirtyMemory(32 * MIB)

function expectRefused(code: LoaderErrorCode, image: Uint8Array) {
  const error = refusedWith(code, () => loadBzImage(untouched, bytesImage(image)))
  expectUntouched(untouched)
  return error
}

describe("loadBzImage", () => {
  test("loads the protected-mode code at its preferred address", () => {
    const memory = dirtyMemory(32 * MIB)
    const image = bzImage()
    const kernel = loadBzImage(memory, bytesImage(image))
    expect(kernel).toMatchObject({
      format: "bzimage",
      loadAddress: 16 * MIB,
      endAddress: 17 * MIB,
      entry: 16 * MIB + 0x200,
    })
    expect(bytesAt(memory, 16 * MIB, 8192)).toEqual(image.subarray(4096))
    expect(bytesAt(memory, 16 * MIB + 8192, 1)).toEqual(Uint8Array.of(0xee))
  })

  test("hands on the setup header, decoded and as it is", () => {
    const image = bzImage({ initrd_addr_max: 0x37ff_ffff, cmdline_size: 255 })
    const { setupHeader } = loadBzImage(dirtyMemory(32 * MIB), bytesImage(image))
    expect(setupHeader).toMatchObject({
      version: 0x20f,
      setupSects: 7,
      initrdAddrMax: 0x37ff_ffff,
      cmdlineSize: 255,
      kernelAlignment: 0x20_0000,
      relocatableKernel: true,
      prefAddress: 0x100_0000,
      initSize: 0x10_0000,
    })
    expect(setupHeader!.bytes).toEqual(image.subarray(0x1f1, 0x26c))
  })

  test("leaves what follows the kernel, such as a signature, in the file", () => {
    const memory = dirtyMemory(32 * MIB)
    loadBzImage(memory, bytesImage(Buffer.concat([bzImage(), Buffer.alloc(512, 0x55)])))
    expect(bytesAt(memory, 16 * MIB + 8191, 2)).toEqual(Uint8Array.of(0xcc, 0xee))
  })

  test("aligns the address to kernel_alignment and keeps above the low megabyte", () => {
    const load = (fields: Parameters<typeof bzImage>[0]) =>
      loadBzImage(dirtyMemory(32 * MIB), bytesImage(bzImage(fields))).loadAddress
    expect(load({ pref_address: 0 })).toBe(2 * MIB)
    expect(load({ pref_address: 0x1000 })).toBe(2 * MIB)
    expect(load({ pref_address: 5 * MIB, kernel_alignment: 0x40_0000 })).toBe(8 * MIB)
  })

  test("needs room for init_size, not for the file alone", () => {
    expectRefused("kernel-address", bzImage({ init_size: 17 * MIB }))
    const ends = loadBzImage(dirtyMemory(32 * MIB), bytesImage(bzImage({ init_size: 16 * MIB }))).endAddress
    expect(ends).toBe(32 * MIB)
  })

  test("does not load across a hole", () => {
    const memory = arrayBufferMemory([
      { start: 0, size: 16 * MIB + 4096 },
      { start: 17 * MIB, size: 16 * MIB },
    ])
    refusedWith("kernel-address", () => loadBzImage(memory, bytesImage(bzImage())))
  })
})

describe("K2: hostile setup headers", () => {
  test.each<[string, LoaderErrorCode, Partial<Record<SetupField, number>>]>([
    ["setup_sects 0, which stands for 4", "bzimage-payload", { setup_sects: 0 }],
    ["setup_sects 255, more than the file", "truncated", { setup_sects: 255 }],
    ["setup_sects one too small", "bzimage-payload", { setup_sects: 6 }],
    ["no boot flag", "bzimage-magic", { boot_flag: 0 }],
    ["no HdrS", "bzimage-magic", { header: 0x53726449 }],
    ["version 2.05", "bzimage-version", { version: 0x205 }],
    ["version 0", "bzimage-version", { version: 0 }],
    ["version 2.06, before 64-bit entry points", "no-64-bit-entry", { version: 0x206 }],
    ["a header that ends before its fields", "bzimage-header", { jump: 0x10 }],
    ["a header that ends behind its room", "bzimage-header", { jump: 0xff }],
    ["relocatable=0", "not-relocatable", { relocatable_kernel: 0 }],
    ["no 64-bit entry point", "no-64-bit-entry", { xloadflags: 0 }],
    ["loaded low", "bzimage-header", { loadflags: 0 }],
    ["alignment 0", "bzimage-header", { kernel_alignment: 0 }],
    ["alignment that is no power of two", "bzimage-header", { kernel_alignment: 0x30_0000 }],
    ["alignment of 2 GiB", "kernel-address", { kernel_alignment: 0x8000_0000 }],
    ["pref_address above 4 GiB", "bzimage-header", { pref_address: 2 ** 32 }],
    ["pref_address outside of RAM", "kernel-address", { pref_address: 0xfff0_0000 }],
    ["init_size of 4 GiB", "kernel-address", { init_size: 0xffff_ffff }],
    ["syssize 0", "bzimage-header", { syssize: 0 }],
    ["syssize without room for an entry point", "bzimage-header", { syssize: 0x20 }],
    ["syssize past the end", "truncated", { syssize: 0xffff_ffff }],
    ["payload past the end", "bzimage-payload", { payload_length: 0xffff_ffff }],
    ["no payload", "bzimage-payload", { payload_offset: 0 }],
    ["payload of one byte", "bzimage-payload", { payload_length: 1 }],
  ])("K2: %s", (_, code, fields) => {
    expectRefused(code, bzImage(fields))
  })

  test.each([0, 0x202, 0x28f])("K2: a file of %i bytes", length => {
    expectRefused("truncated", bzImage().subarray(0, length))
  })

  test("K2: setup alone, without a kernel", () => {
    expect(expectRefused("truncated", bzImage().subarray(0, 4096))).toMatchObject({
      offset: 4096,
      need: 8192,
      have: 4096,
    })
  })
})
