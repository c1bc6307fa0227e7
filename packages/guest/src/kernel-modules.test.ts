import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { kernelModuleFiles } from "./kernel-modules.js"

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "tsvmm-modules-"))
  table("modules.builtin", ["kernel/fs/ext4/ext4.ko", "kernel/crypto/crc32c-generic.ko"])
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

const table = (name: string, lines: readonly string[]): void =>
  writeFileSync(join(directory, name), lines.map(line => `${line}\n`).join(""))
const inside = (...paths: string[]): string[] => paths.map(path => join(directory, path))

describe("modules of a kernel", () => {
  beforeEach(() =>
    table("modules.dep", [
      "kernel/virtio.ko:",
      "kernel/virtio_ring.ko: kernel/virtio.ko",
      "kernel/virtio-rng.ko: kernel/virtio_ring.ko kernel/virtio.ko",
      "kernel/virtio_blk.ko: kernel/virtio_ring.ko kernel/virtio.ko",
      "extra/squeezed.ko.xz: kernel/virtio.ko",
    ]),
  )

  test("come after what they need, each once", () => {
    expect(kernelModuleFiles(directory, ["virtio_blk", "virtio_rng", "virtio"])).toEqual(
      inside("kernel/virtio.ko", "kernel/virtio_ring.ko", "kernel/virtio_blk.ko", "kernel/virtio-rng.ko"),
    )
  })

  test("are found by either spelling, compressed or not", () => {
    const rng = kernelModuleFiles(directory, ["virtio-rng"])
    expect(kernelModuleFiles(directory, ["virtio_rng"])).toEqual(rng)
    expect(kernelModuleFiles(directory, ["squeezed"])).toEqual(
      inside("kernel/virtio.ko", "extra/squeezed.ko.xz"),
    )
  })

  test("that are built in are left out, by either spelling", () => {
    expect(kernelModuleFiles(directory, ["ext4", "crc32c_generic"])).toEqual([])
  })

  test("that the kernel does not have are named", () => {
    expect(() => kernelModuleFiles(directory, ["virtio", "nosuch"])).toThrow(
      expect.objectContaining({ code: "invalid-argument", message: expect.stringContaining("nosuch") }),
    )
  })
})

test.each(["/etc/shadow.ko", "../../etc/x.ko", "kernel/../../x.ko", "kernel//x.ko", "kernel/x"])(
  "a table that names %s is refused",
  path => {
    table("modules.dep", ["kernel/virtio.ko:", `kernel/bad.ko: ${path}`])
    expect(kernelModuleFiles(directory, ["virtio"])).toEqual(inside("kernel/virtio.ko"))
    expect(() => kernelModuleFiles(directory, ["bad"])).toThrow(
      expect.objectContaining({ code: "invalid-argument" }),
    )
  },
)

test("a folder without modules.dep is an error that says what to run", () => {
  expect(() => kernelModuleFiles(directory, [])).toThrow(
    expect.objectContaining({ code: "artifact-missing", message: expect.stringContaining("depmod") }),
  )
})
