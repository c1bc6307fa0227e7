import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { guestArtifacts, type InitramfsEntry, writeInitramfs } from "@ts-vmm/guest"
import { afterAll, beforeAll, expect, test } from "vitest"
import { stockGuest } from "../fixtures/stock-guest.js"

/** The agent's first steps on a PC, which QEMU's software CPU is: no test of the machine of ours. */
const BOOT_TIMEOUT_MS = 200_000
/** As Linux numbers it: our kernel has no modules at all. */
const ENOSYS = 38

let directory: string
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "tsv-agent-boot-"))
})
afterAll(() => rmSync(directory, { recursive: true }))

/** Boots to the agent's probe; resolves with the console when the machine has ended by itself. */
function boot(kernel: string, initramfs: string, ...words: string[]): string {
  const cmdline = ["console=ttyS0", "panic=-1", "quiet", "tsvmm.probe", ...words]
  const args = [
    ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"],
    ...["-accel", "tcg", "-cpu", "max", "-m", "256M", "-machine", "pc"],
    ...["-kernel", kernel, "-initrd", initramfs, "-append", cmdline.join(" ")],
  ]
  return execFileSync("qemu-system-x86_64", args, {
    encoding: "utf8",
    timeout: BOOT_TIMEOUT_MS,
    stdio: "pipe",
  })
}

const file = (path: string, data: string): InitramfsEntry => ({
  type: "file",
  path,
  mode: 0o755,
  data: Buffer.from(data),
})

/** An initramfs whose list of modules is the given text, with two files that are no modules. */
function initramfsWithList(list: string): string {
  const path = join(directory, "initramfs.cpio")
  const image = writeInitramfs([
    { type: "directory", path: "dev", mode: 0o755 },
    { type: "character-device", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
    { type: "file", path: "init", mode: 0o755, data: readFileSync(guestArtifacts().agent()) },
    { type: "directory", path: "modules", mode: 0o755 },
    file("modules/load", list),
    file("modules/first.ko", "no module"),
    file("modules/second.ko.xz", "no module either"),
  ])
  writeFileSync(path, image)
  return path
}

const agentLines = (console: string): string[] =>
  console
    .split(/\r?\n/)
    .filter(line => line.startsWith("agent: "))
    .map(line => line.slice("agent: ".length))

test("Debian's kernel gets its modules, reaches the agent and powers off", {
  timeout: BOOT_TIMEOUT_MS,
}, () => {
  const { kernel, initramfs } = stockGuest()
  const console = boot(kernel, initramfs, "mitigations=off")
  expect(console).toContain("tsvmm: probe ok")
  expect(console).toContain("reboot: Power down")
  expect(agentLines(console)).toEqual([])
})

test("a module that does not load is one line, and a machine that cannot power off is reset", () => {
  const initramfs = initramfsWithList("first.ko\n\nsecond.ko.xz\nabsent.ko\n")
  const console = boot(guestArtifacts().kernel("linux-kvm-x86_64"), initramfs, "acpi=off", "reboot=k")
  expect(agentLines(console)).toEqual([
    `module first.ko: Function not implemented (errno ${ENOSYS})`,
    `module second.ko.xz: Function not implemented (errno ${ENOSYS})`,
    "module absent.ko: No such file or directory (errno 2)",
  ])
  expect(console).toContain("tsvmm: probe ok")
  expect(console).toContain("reboot: Restarting system")
})

test("a list that leads elsewhere or never ends is left there", () => {
  const kernel = guestArtifacts().kernel("linux-kvm-x86_64")
  const elsewhere = boot(kernel, initramfsWithList("../init\nfirst.ko\n"), "acpi=off", "reboot=k")
  expect(agentLines(elsewhere)).toEqual(["/modules/load: entry 1 is not taken"])
  const endless = boot(kernel, initramfsWithList("absent.ko\n".repeat(600)), "acpi=off", "reboot=k")
  expect(agentLines(endless)).toHaveLength(513)
  expect(agentLines(endless).at(-1)).toBe("/modules/load: entry 513 is not taken")
  expect(endless).toContain("tsvmm: probe ok")
})
