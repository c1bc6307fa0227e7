import { readFileSync } from "node:fs"
import { expect, test, vi } from "vitest"
import { launcherPath } from "../src/index.js"

test("a missing build is one error that says what to do", async () => {
  vi.resetModules()
  vi.doMock("../src/built-file.js", () => ({ builtFile: (name: string) => `/nowhere/${name}` }))

  await expect(import("../src/addon.js")).rejects.toThrow(
    /cannot be loaded from \/nowhere\/.*run "npm run build"/,
  )
  vi.doUnmock("../src/built-file.js")
})

test("nothing in the environment chooses another addon", () => {
  const text = readFileSync(new URL("../src/addon.ts", import.meta.url), "utf8")

  expect(text).not.toContain("process.env")
  expect(launcherPath()).toMatch(/build\/Release\/tsvmm-launch$/)
})
