// Folders of the host that programs in a sandbox have mapped, and share with other sandboxes.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type RuntimePaths, Sandbox, type SandboxMount } from "@ts-vmm/runtime"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { HYPERVISOR, underTest } from "./under-test.js"

let root: string
let shared: string
let paths: RuntimePaths
const image = `oci:${busyboxImage()}`

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "dax-"))
  shared = join(root, "shared")
  paths = { stateDir: join(root, "state"), imageDir: join(root, "images") }
  mkdirSync(shared)
  writeFileSync(join(shared, "file"), "0123456789\n")
})
afterAll(() => rmSync(root, { recursive: true }))

const create = (mount: Partial<SandboxMount> = {}) => {
  const mounts = [{ source: shared, target: "/data", dax: true, ...mount }]
  return Sandbox.create({ image, paths, mounts, ...underTest })
}

test.runIf(HYPERVISOR === "uml")("User Mode Linux has no way to map files, and says so", async () => {
  await expect(create()).rejects.toMatchObject({ code: "invalid-argument" })
})

describe.runIf(HYPERVISOR === "kvm")("mounts with dax", () => {
  let one: Sandbox
  let other: Sandbox
  beforeAll(async () => {
    one = await create()
    other = await create({ readOnly: true, daxSizeMiB: 8 })
  })
  afterAll(async () => {
    for (const sandbox of [one, other]) await sandbox?.destroy()
  })

  test("show one set of pages to the host and to each sandbox", async () => {
    expect((await one.shell("grep -o dax=always /proc/mounts")).stdout).toBe("dax=always\n")
    for (const sandbox of [one, other])
      expect((await sandbox.shell("cat /data/file")).stdout).toBe("0123456789\n")
    await one.shell("printf one | dd of=/data/file bs=1 seek=4 conv=notrunc")
    expect(readFileSync(join(shared, "file"), "utf8")).toBe("0123one789\n")
    expect((await other.shell("cat /data/file")).stdout).toBe("0123one789\n")
    expect((await other.shell("echo no > /data/file")).exitCode).not.toBe(0)
  })

  test("cannot come to a sandbox that runs", async () => {
    const late = { source: shared, target: "/late", dax: true }
    await expect(one.attachMount(late)).rejects.toMatchObject({ code: "invalid-argument" })
  })
})
