import { closeSync, existsSync, openSync, readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import {
  bytesImage,
  Cmdline,
  defaultMemoryMap,
  fileImage,
  loadBzImage,
  loadElf,
  loadInitrd,
  loadKernel,
  writeBootParams,
} from "../src/index.js"
import { unpackLz4Legacy } from "../src/testing/lz4.js"

const BOOT = fileURLToPath(new URL("../../../.cache/debian/linux-image-cloud-amd64/boot/", import.meta.url))
const found = existsSync(BOOT) ? readdirSync(BOOT).find(name => name.startsWith("vmlinuz-")) : undefined
const RAM = 128 * 2 ** 20
/** Unpacking 40 MiB takes its time on a busy machine. */
const timeout = 60_000
/** First bytes of LZ4's legacy frame, in which Debian packs its kernels. */
const LZ4_LEGACY = 0x184c2102

/** Debian's kernel, which nobody made for these tests. */
describe.skipIf(found === undefined)(
  found
    ? `Debian's ${found}`
    : "Debian's kernel (skipped: not in the cache, node scripts/stock-kernel.mjs fetches it)",
  () => {
    const path = `${BOOT}${found}`
    const memory = arrayBufferMemory([{ start: 0, size: RAM }])

    test("loads as a bzImage, its code byte for byte", { timeout }, () => {
      const bytes = readFileSync(path)
      const kernel = loadKernel(memory, bytesImage(bytes))
      const header = kernel.setupHeader!
      expect(kernel).toMatchObject({ format: "bzimage", entry: kernel.loadAddress + 0x200 })
      expect(kernel.loadAddress).toBe(header.prefAddress)
      expect(kernel.endAddress - kernel.loadAddress).toBe(header.initSize)
      const loaded = Buffer.from(memory.slices(kernel.loadAddress, header.syssize * 16)[0]!)
      const setupSize = (header.setupSects + 1) * 512
      expect(loaded.equals(bytes.subarray(setupSize, setupSize + loaded.length))).toBe(true)
    })

    test("its packed vmlinux loads as an ELF file where the bzImage says, with a PVH entry", {
      timeout,
    }, () => {
      const bytes = readFileSync(path)
      const packed = loadBzImage(memory, bytesImage(bytes))
      const { setupSects, payloadOffset, payloadLength, initSize } = packed.setupHeader!
      const payload = (setupSects + 1) * 512 + payloadOffset
      expect(bytes.readUInt32LE(payload)).toBe(LZ4_LEGACY)
      const vmlinux = unpackLz4Legacy(bytes.subarray(payload, payload + payloadLength))
      const kernel = loadElf(memory, bytesImage(vmlinux))
      expect(kernel.loadAddress).toBe(packed.loadAddress)
      expect(kernel.entry).toBe(packed.loadAddress)
      expect(kernel.endAddress - kernel.loadAddress).toBeLessThanOrEqual(initSize)
      expect(kernel.pvhEntry).toBeGreaterThan(kernel.loadAddress)
      expect(kernel.pvhEntry).toBeLessThan(kernel.endAddress)
    })

    test("takes an initrd and its boot parameters", () => {
      const fd = openSync(path, "r")
      const kernel = loadKernel(memory, fileImage(fd))
      closeSync(fd)
      const initrd = loadInitrd(memory, bytesImage(new Uint8Array(10_000)), kernel)
      expect(initrd.address).toBe(RAM - 12_288)
      const cmdline = new Cmdline("console=ttyS0")
      expect(writeBootParams(memory, { kernel, cmdline, initrd, memoryMap: defaultMemoryMap(memory) })).toBe(
        0x7000,
      )
    })
  },
)
