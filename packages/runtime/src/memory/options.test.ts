import { expect, test } from "vitest"
import { checkMax, checkSize, checkTarget, memoryArguments } from "./options.js"
import { SandboxMemory } from "./sandbox-memory.js"

const refused = expect.objectContaining({ code: "invalid-argument" })

test("C8: a target is whole MiB, from what a kernel needs to all of the RAM", () => {
  expect(checkTarget("it", 64, 128)).toBe(64)
  for (const wrong of [31, 129, 64.5, -1, Number.NaN, 2 ** 53])
    expect(() => checkTarget("it", wrong, 128)).toThrow(refused)
})

test("C8: the most RAM is whole sections above what there is at boot", () => {
  expect(checkMax(100 + 256, 100, 1024)).toBe(356)
  expect(checkMax(100, 100, 1024)).toBe(100)
  for (const wrong of [99, 101, 100 + 64, 1124, Number.NaN, Number.POSITIVE_INFINITY])
    expect(() => checkMax(wrong, 100, 1024)).toThrow(refused)
})

test("C8: RAM is changed in steps of 2 MiB, between what there is at boot and the most", () => {
  expect(checkSize(102, 100, 228)).toBe(102)
  for (const wrong of [98, 101, 230, Number.NaN]) expect(() => checkSize(wrong, 100, 228)).toThrow(refused)
})

test("new memory is for what can be moved, and the kernel is told so only where there can be any", () => {
  const memory = { memoryMiB: 128, memoryTargetMiB: 128 }
  expect(memoryArguments({ ...memory, memoryMaxMiB: 128 })).toEqual([])
  expect(memoryArguments({ ...memory, memoryMaxMiB: 256 })).toEqual(["memhp_default_state=online_movable"])
})

test("a sandbox has a device for more RAM only where there can be any", async () => {
  const fixed = new SandboxMemory({ memoryMiB: 128, memoryTargetMiB: 96, memoryMaxMiB: 128 })
  expect(fixed).toMatchObject({ sizeMiB: 128, targetMiB: 96, usableMiB: 128, maxMiB: 128 })
  expect(fixed.devices.map(({ type }) => type)).toEqual([5])
  await fixed.resize(128)
  await expect(fixed.resize(130)).rejects.toThrow(refused)
  const growing = new SandboxMemory({ memoryMiB: 128, memoryTargetMiB: 128, memoryMaxMiB: 256 })
  expect(growing.devices.map(({ type }) => type)).toEqual([5, 24])
  await expect(growing.resize(130, { timeoutMs: 10 })).rejects.toMatchObject({ code: "timeout" })
  expect(growing).toMatchObject({ sizeMiB: 128, targetMiB: 128 })
})
