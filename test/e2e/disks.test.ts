// Disks of the host in a sandbox: raw and qcow2, each by its name and never by what it holds.
import { execFileSync } from "node:child_process"
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type RuntimePaths, Sandbox, type SandboxMount } from "@ts-vmm/runtime"
import { createQcow2 } from "@ts-vmm/virtio-devices/block"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { underTest } from "./under-test.js"

const MIB = 1024 * 1024
const image = `oci:${busyboxImage()}`
let root: string
let paths: RuntimePaths

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "disks-"))
  paths = { stateDir: join(root, "state"), imageDir: join(root, "images") }
})
afterAll(() => rmSync(root, { recursive: true }))

/** A raw disk with a file on it. */
function rawDisk(name: string): string {
  const [path, content] = [join(root, name), join(root, `${name}.content`)]
  mkdirSync(content)
  writeFileSync(join(content, "hello"), "hello from the disk\n")
  writeFileSync(path, "")
  truncateSync(path, 32 * MIB)
  const PATH = `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`
  const options = ["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", content]
  execFileSync("mke2fs", [...options, path], { env: { PATH }, stdio: "pipe" })
  return path
}

function qcow2Disk(name: string): string {
  const path = join(root, name)
  execFileSync("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", rawDisk(`${name}.raw`), path])
  return path
}

type Disk = Omit<SandboxMount, "type">
const start = (...disks: Disk[]) =>
  Sandbox.create({ image, paths, mounts: disks.map(disk => ({ ...disk, type: "disk" })), ...underTest })
const refusal = (...disks: Disk[]) =>
  start(...disks).then(
    async sandbox => {
      await sandbox.destroy()
      return "it started"
    },
    error => `${error.code}: ${error.message}`,
  )

describe.each([
  { format: "raw", make: rawDisk },
  { format: "qcow2", make: qcow2Disk },
] as const)("a $format disk", ({ format, make }) => {
  test("is read and written, and what was written is there for the next sandbox", async () => {
    const disk = { source: make(`kept.${format}`), target: "/data", format }
    {
      await using sandbox = await start(disk)
      const script =
        "cat /data/hello; rm /data/hello; echo mine > /data/mine; seq 100000 > /data/numbers; sync"
      expect(await sandbox.shell(script)).toMatchObject({ stdout: "hello from the disk\n", exitCode: 0 })
    }
    await using sandbox = await start({ ...disk, readOnly: true })
    const { stdout } = await sandbox.shell("ls /data/hello; cat /data/mine; tail -n 1 /data/numbers")
    expect(stdout).toBe("mine\n100000\n")
    expect((await sandbox.shell("echo x > /data/x")).exitCode).not.toBe(0)
  })

  test("B9: is one sandbox's alone when it is written to, and shared by those that read", async () => {
    const disk = { source: make(`locked.${format}`), target: "/data", format }
    const readOnly = { ...disk, readOnly: true }
    {
      await using _writer = await start(disk)
      expect(await refusal(disk)).toMatch(/^invalid-argument: .*in use by somebody else/)
      expect(await refusal(readOnly)).toMatch(/^invalid-argument: .*in use by somebody else/)
    }
    await using one = await start(readOnly)
    await using other = await start(readOnly)
    for (const sandbox of [one, other])
      expect((await sandbox.shell("cat /data/hello")).stdout).toBe("hello from the disk\n")
    expect(await refusal(disk)).toMatch(/in use by somebody else/)
  })
})

test("B8: a raw disk that begins like a qcow2 image is raw, and stays so", async () => {
  const source = rawDisk("disguised.img")
  const image = join(root, "header.qcow2")
  await createQcow2(image, { size: 32 * MIB, backing: { name: "/etc/passwd", format: "raw" } })
  // An ext4 file system leaves its first KiB to boot loaders.
  const fd = openSync(source, "r+")
  writeSync(fd, execFileSync("head", ["-c", "512", image]), 0, 512, 0)
  closeSync(fd)
  await using sandbox = await start({ source, target: "/data" })
  expect((await sandbox.shell("cat /data/hello")).stdout).toBe("hello from the disk\n")
})

test("B7: a qcow2 image that stands on another file is refused", async () => {
  const source = join(root, "above.qcow2")
  await createQcow2(source, { size: 32 * MIB, backing: { name: "/etc/passwd", format: "raw" } })
  expect(await refusal({ source, target: "/data", format: "qcow2" })).toMatch(
    /^invalid-argument: .*stands on another file/,
  )
})

test("a disk without a file system is named in the error", async () => {
  const source = join(root, "empty.img")
  writeFileSync(source, "")
  truncateSync(source, MIB)
  expect(await refusal({ source, target: "/data" })).toContain(`the disk ${source} cannot be mounted`)
})

test.each([
  [[{ source: "/nowhere", target: "/data" }], /does not exist/],
  [[{ source: "/etc", target: "/data" }], /neither a disk image nor a block device/],
  [[{ source: "/etc/passwd", target: "data" }], /not an absolute path/],
  [[{ source: "/etc/passwd", target: "/data", format: "vmdk" as "raw" }], /unknown format "vmdk"/],
  [[{ source: "/etc/passwd", target: "/data", format: "qcow2", direct: true }], /direct is for raw/],
  [
    [
      { source: "/etc/passwd", target: "/data" },
      { source: "/etc/group", target: "/data/" },
    ],
    /two mounts have the same target/,
  ],
] as const)("what cannot be is refused: %j", async (disks, why) => {
  expect(await refusal(...disks)).toMatch(why)
})
