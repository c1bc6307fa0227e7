import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, expect, test } from "vitest"
import { guestArtifacts } from "./artifacts.js"

let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "tsvmm-artifacts-"))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

test("finds the initramfs, the agent and a kernel by name", () => {
  mkdirSync(join(root, "build/kernels"), { recursive: true })
  writeFileSync(join(root, "build/initramfs.cpio"), "")
  writeFileSync(join(root, "build/kernels/linux-uml-x86_64"), "")
  writeFileSync(join(root, "build/agent"), "")
  const artifacts = guestArtifacts(root)
  expect(artifacts.agent()).toBe(join(root, "build/agent"))
  expect(artifacts.initramfs).toBe(join(root, "build/initramfs.cpio"))
  expect(artifacts.kernel("linux-uml-x86_64")).toBe(join(root, "build/kernels/linux-uml-x86_64"))
})

test("what is missing is an error that says what to run", () => {
  const missing = expect.objectContaining({
    code: "artifact-missing",
    message: expect.stringContaining("build-initramfs.mjs"),
  })
  expect(() => guestArtifacts(root)).toThrow(missing)
  mkdirSync(join(root, "build"))
  writeFileSync(join(root, "build/initramfs.cpio"), "")
  expect(() => guestArtifacts(root).agent()).toThrow(
    expect.objectContaining({
      code: "artifact-missing",
      message: expect.stringContaining("build-agent.mjs"),
    }),
  )
})

test("a kernel's name is not a path", () => {
  mkdirSync(join(root, "build"))
  writeFileSync(join(root, "build/initramfs.cpio"), "")
  const { kernel } = guestArtifacts(root)
  for (const name of ["../initramfs.cpio", "", "a/b", ".."]) {
    expect(() => kernel(name)).toThrow(expect.objectContaining({ code: "invalid-argument" }))
  }
  expect(() => kernel("nosuch")).toThrow(expect.objectContaining({ code: "artifact-missing" }))
})
