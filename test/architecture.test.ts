import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"
import { describe, expect, test } from "vitest"

const root = join(dirname(fileURLToPath(import.meta.url)), "..")

/**
 * Which of our packages each may import: docs/architecture.md as a table. A package not in its own row is
 * above it, or beside it.
 */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  native: [],
  "vm-memory": ["native"],
  "virtio-devices": ["native", "vm-memory"],
  vsock: ["native", "vm-memory", "virtio-devices"],
  "kvm-ioctls": ["native", "vm-memory"],
  "linux-loader": ["vm-memory"],
  vmm: ["native", "vm-memory", "virtio-devices", "kvm-ioctls", "linux-loader"],
  guest: [],
  "oci-image": [],
  cni: [],
  runtime: [
    "native",
    "vm-memory",
    "virtio-devices",
    "vsock",
    "kvm-ioctls",
    "vmm",
    "guest",
    "oci-image",
    "cni",
  ],
}

/** Where `native` may be reached from: the rest must load without a compiled addon. */
const NATIVE_EDGES = [
  "packages/vm-memory/src/mmap",
  "packages/virtio-devices/src/vhost/",
  "packages/virtio-devices/src/vhost-user/",
  "packages/virtio-devices/src/block/",
  "packages/virtio-devices/src/fs/",
  "packages/virtio-devices/src/net/socket/",
  "packages/virtio-devices/src/net/tap/",
  "packages/virtio-devices/src/pmem/",
  "packages/virtio-devices/src/testing/",
  "packages/vsock/src/unix-bridge",
  "packages/kvm-ioctls/",
  "packages/vmm/src/",
  "packages/runtime/",
]

interface Import {
  readonly file: string
  readonly from: string
  readonly target: string
  readonly typeOnly: boolean
}

const imports = Object.keys(MAY_IMPORT).flatMap(importsOf)

describe("imports go down only", () => {
  test.each(Object.entries(MAY_IMPORT))("%s imports only what is below it", (name, allowed) => {
    const wrong = imports.filter(
      one => one.from === name && one.target !== name && !allowed.includes(one.target),
    )
    expect(wrong.map(describeImport)).toEqual([])
  })

  test("native is reached from its edges only", () => {
    const wrong = imports.filter(
      one =>
        one.target === "native" && !one.typeOnly && !NATIVE_EDGES.some(edge => one.file.startsWith(edge)),
    )
    expect(wrong.map(describeImport)).toEqual([])
  })

  test("every package is in the picture", () => {
    expect(readdirSync(join(root, "packages")).sort()).toEqual(Object.keys(MAY_IMPORT).sort())
  })
})

function importsOf(name: string): Import[] {
  return sourceFiles(join(root, "packages", name, "src")).flatMap(path => {
    const file = relative(root, path)
    const text = readFileSync(path, "utf8").replace(/\/\*[\s\S]*?\*\//g, "")
    return [...text.matchAll(/(import|export)\s+(type\s)?[^"']*?from\s+["']@ts-vmm\/([a-z-]+)/g)].map(
      match => ({
        file,
        from: name,
        target: match[3] as string,
        typeOnly: match[2] !== undefined,
      }),
    )
  })
}

function sourceFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter(entry => entry.isFile() && entry.name.endsWith(".ts") && !entry.name.endsWith(".test.ts"))
    .map(entry => join(entry.parentPath, entry.name))
}

function describeImport(one: Import): string {
  return `${one.file} imports ${one.target}`
}
