import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, expect, test } from "vitest"
import { SandboxError } from "../errors.js"
import { fromVolumeError, openVolume } from "./volume-devices.js"
import { checkMount, type SandboxMount, volumeStorage } from "./volumes.js"

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "volumes-"))
  writeFileSync(join(folder, "disk"), "")
})
afterAll(() => rmSync(folder, { recursive: true }))

const check = (mount: Partial<SandboxMount>) => checkMount({ source: folder, target: "/data", ...mount }, 0)
const optionsOf = (mount: Partial<SandboxMount>) => volumeStorage(check(mount)).options

test("a mount with dax says so to the guest's kernel, and has a device with a window", async () => {
  expect(optionsOf({})).toEqual([])
  expect(optionsOf({ dax: true })).toEqual(["dax=always"])
  expect(optionsOf({ dax: true, readOnly: true })).toEqual(["ro", "dax=always"])
  for (const [mount, size] of [
    [{}, undefined],
    [{ dax: true }, 2 ** 28],
    [{ dax: true, daxSizeMiB: 2 }, 2 ** 21],
    [{ daxSizeMiB: 2 }, undefined],
  ] as const) {
    const { device, close } = await openVolume(check(mount), {
      limiter: undefined,
      onFailure: () => undefined,
    })
    expect(device.deviceMemory?.size).toBe(size)
    close()
  }
})

test.each<Partial<SandboxMount>>([
  { dax: true, daxSizeMiB: 0 },
  { dax: true, daxSizeMiB: 1 },
  { dax: true, daxSizeMiB: 3 },
  { dax: true, daxSizeMiB: 8192 },
  { dax: true, daxSizeMiB: Number.NaN },
  { dax: true, type: "disk", source: "disk" },
])("%o is refused", mount => {
  const source = mount.source ? join(folder, mount.source) : folder
  expect(() => check({ ...mount, source })).toThrow(expect.objectContaining({ code: "invalid-argument" }))
})

test("a kernel that has no DAX is said to be the reason", () => {
  const refused = new SandboxError(
    "agent-failed",
    "mount virtiofs volume0 at /run/tsvmm/volumes/0: Invalid argument",
  )
  expect(fromVolumeError([check({ dax: true })], refused)).toMatchObject({
    code: "invalid-argument",
    message: expect.stringContaining("CONFIG_FUSE_DAX"),
  })
  expect(fromVolumeError([check({})], refused)).toBeUndefined()
  expect(fromVolumeError([check({ dax: true })], new SandboxError("timeout", "late"))).toBeUndefined()
})
