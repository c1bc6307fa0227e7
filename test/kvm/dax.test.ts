// Files of the host in a guest's address space: the DAX window of virtio-fs, with Linux' own driver.
import { execFileSync } from "node:child_process"
import { createHash, randomBytes } from "node:crypto"
import {
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import { FsDevice, type FsDeviceOptions } from "@ts-vmm/virtio-devices/fs"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { type GuestShell, startShell } from "./guest-shell.js"

const MIB = 2 ** 20
const MOUNT = "mount -t virtiofs -o dax=always share /mnt"
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex")

/** Has the first page of a file mapped: shows how it begins, and writes there. */
const MAPPER = `
  #include <fcntl.h>
  #include <string.h>
  #include <sys/mman.h>
  #include <unistd.h>
  int main(int, char** argv) {
    void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    if (at == MAP_FAILED || write(1, at, 4) != 4) return 1;
    memcpy(at, "mapped", 6);
  }`

const closers: (() => Promise<void> | void)[] = []
let folder: string
let content: Buffer

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "dax-"))
  content = randomBytes(5 * MIB)
  writeFileSync(join(folder, "file"), content)
})
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
  rmSync(folder, { recursive: true })
})

/** A guest with the folder at /mnt. */
async function boot(options: Partial<FsDeviceOptions> = {}): Promise<GuestShell & { device: FsDevice }> {
  const device = new FsDevice(folder, { tag: "share", dax: { size: 16 * MIB }, ...options })
  closers.push(() => device.close())
  const shell = await startShell({ devices: [device] })
  closers.push(() => shell.dispose())
  expect(await shell.run(`${MOUNT} 2>&1`)).toBe("")
  return { ...shell, device }
}

/** Changes a few bytes of the file, as a program of the host. */
function poke(offset: number, text: string): void {
  const fd = openSync(join(folder, "file"), "r+")
  writeSync(fd, text, offset)
  closeSync(fd)
}

const hash = "sha256sum /mnt/file | cut -c1-64"
const show = (offset: number, count: number) =>
  `dd if=/mnt/file bs=1 skip=${offset} count=${count} 2>/dev/null`

describe("a guest with a DAX window", () => {
  test("reads and writes the pages of the host's files", async () => {
    const { run, device } = await boot()
    expect(await run(hash)).toBe(sha256(content))
    expect(device.mappedRanges).toBe(3)
    // No cache could know: neither size nor a time that the guest looks at again within a second has changed.
    poke(3 * MIB, "host")
    expect(await run(show(3 * MIB, 4))).toBe("host")
    await run("printf guest | dd of=/mnt/file bs=1 seek=7 conv=notrunc 2>/dev/null")
    expect(readFileSync(join(folder, "file")).subarray(7, 12).toString()).toBe("guest")
    await run("umount /mnt")
    expect(device.mappedRanges).toBe(0)
  })

  test("runs programs from it, and makes, grows and shrinks files", async () => {
    copyFileSync("/bin/busybox", join(folder, "busybox"))
    const { run, device } = await boot()
    expect(await run("/mnt/busybox echo it runs")).toBe("it runs")
    expect(device.mappedRanges).toBeGreaterThan(0)
    await run("cd /mnt; echo one > new; cat new; echo two >> new; cat new; truncate -s 3 new; cat new; cd /")
    expect(readFileSync(join(folder, "new"), "utf8")).toBe("one")
    expect(await run("echo longer > /mnt/new; cat /mnt/new; rm /mnt/new; ls -1 /mnt")).toBe(
      "longer\nbusybox\nfile",
    )
  })

  test("has files mapped by programs, which write to them", async () => {
    const flags = ["-static", "-O1", "-x", "c++", "-o", join(folder, "mapper"), "-"]
    execFileSync("g++", flags, { input: MAPPER })
    poke(0, "host")
    const { run } = await boot()
    expect(await run("/mnt/mapper /mnt/file")).toBe("host")
    expect(readFileSync(join(folder, "file")).subarray(0, 6).toString()).toBe("mapped")
  })

  test("that is smaller than the file reads all of it, and what is shared read-only", async () => {
    const { run, device } = await boot({ dax: { size: 4 * MIB }, readOnly: true })
    expect(await run(hash)).toBe(sha256(content))
    expect(device.mappedRanges).toBeLessThanOrEqual(2)
    expect(await run("echo no 2>&1 > /mnt/file || echo refused")).toContain("refused")
    expect(readFileSync(join(folder, "file")).equals(content)).toBe(true)
  })

  test("shares pages with another guest", async () => {
    const [one, other] = [await boot(), await boot()]
    for (const { run } of [one, other]) expect(await run(hash)).toBe(sha256(content))
    await one.run("printf one | dd of=/mnt/file bs=1 seek=5 conv=notrunc 2>/dev/null")
    expect(await other.run(show(5, 3))).toBe("one")
  })

  test("ends when it uses what is not mapped, and nothing else does", async () => {
    // It has no need to ask for anything again.
    const [one, other] = [await boot({ cache: "always" }), await boot()]
    for (const { run } of [one, other]) expect(await run(`exec 3< /mnt/file; ${hash}`)).toBe(sha256(content))
    // Behind its back: it takes it that its mappings are there.
    one.device.reset()
    one.run("dd bs=4 count=1 <&3").catch(() => undefined)
    expect(await one.machine.exited).toMatchObject({ kind: "failed", vcpu: 0 })
    expect(await other.run(hash)).toBe(sha256(content))
  })

  test("F5: stands still or ends when pages that it uses are gone; it can be stopped, and nobody else notices", async () => {
    const [one, other] = [await boot({ cache: "always" }), await boot({ cache: "always" })]
    for (const { run } of [one, other]) expect(await run(hash)).toBe(sha256(content))
    truncateSync(join(folder, "file"), 4096)
    let answered = false
    one.run(hash).then(
      () => (answered = true),
      () => undefined,
    )
    expect(await other.run(`${show(0, 4)} | wc -c`)).toBe("4")
    await setTimeout(3000)
    expect(answered).toBe(false)
    expect(["failed", "stopped"]).toContain((await one.machine.stop()).kind)
    expect(await other.run("echo goes on")).toBe("goes on")
  })
})
