import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, expect, test } from "vitest"
import { SANDBOX_MODULES, writeAgentInitramfs } from "./agent-initramfs.js"
import { type InitramfsEntry, writeInitramfs } from "./initramfs.js"

const agent = Buffer.from("\x7fELF agent")
const BASE: InitramfsEntry[] = [
  { type: "directory", path: "dev", mode: 0o755 },
  { type: "character-device", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
  { type: "character-device", path: "dev/null", mode: 0o666, major: 1, minor: 3 },
  { type: "file", path: "init", mode: 0o755, data: agent },
]

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "tsvmm-agent-initramfs-"))
  mkdirSync(join(directory, "kernel"))
  const modules = [...SANDBOX_MODULES.filter(name => name !== "overlay"), "virtio"]
  const lines = modules.map(name => `kernel/${name}.ko:${name === "virtio" ? "" : " kernel/virtio.ko"}\n`)
  writeFileSync(join(directory, "modules.dep"), lines.join(""))
  writeFileSync(join(directory, "modules.builtin"), "kernel/fs/overlayfs/overlay.ko\n")
  for (const name of modules) writeFileSync(join(directory, "kernel", `${name}.ko`), `code of ${name}`)
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

const withModules = (names: readonly string[]): Uint8Array =>
  writeInitramfs([
    ...BASE,
    { type: "directory", path: "modules", mode: 0o700 },
    {
      type: "file",
      path: "modules/load",
      mode: 0o600,
      data: Buffer.from(names.map(name => `${name}.ko\n`).join("")),
    },
    ...names.map(
      (name): InitramfsEntry => ({
        type: "file",
        path: `modules/${name}.ko`,
        mode: 0o600,
        data: Buffer.from(`code of ${name}`),
      }),
    ),
  ])

test("is the agent and two device nodes for a kernel without modules", () => {
  expect(writeAgentInitramfs({ agent })).toEqual(writeInitramfs(BASE))
})

test("carries what a sandbox needs and the kernel has as modules, with the order to load it in", () => {
  const image = writeAgentInitramfs({ agent, modulesDirectory: directory })
  expect(image).toEqual(withModules(["virtio", ...SANDBOX_MODULES.filter(name => name !== "overlay")]))
})

test("carries the modules that are asked for, and no empty folder when all are built in", () => {
  const image = writeAgentInitramfs({ agent, modulesDirectory: directory, modules: ["erofs"] })
  expect(image).toEqual(withModules(["virtio", "erofs"]))
  const none = writeAgentInitramfs({ agent, modulesDirectory: directory, modules: ["overlay"] })
  expect(none).toEqual(writeInitramfs(BASE))
})

test("a module whose file is gone is named", () => {
  rmSync(join(directory, "kernel/erofs.ko"))
  expect(() => writeAgentInitramfs({ agent, modulesDirectory: directory })).toThrow(
    expect.objectContaining({ code: "artifact-missing", message: expect.stringContaining("erofs.ko") }),
  )
})
