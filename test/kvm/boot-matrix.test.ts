import { createHash, randomBytes } from "node:crypto"
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { guestArtifacts } from "@ts-vmm/guest/artifacts"
import { BlockDevice, memoryBackend } from "@ts-vmm/virtio-devices/block"
import type { BootProtocol, DeviceDescription, InterruptControllerKind } from "@ts-vmm/vmm"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { makeInitramfs, stockKernel } from "../fixtures/stock-kernel.js"
import { startMachine } from "./machine.js"

/** What each guest says of itself, and how it ends. */
const SCRIPT = (end: string) => `
  echo "cpus: $(nproc)"
  echo "memory: $(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)"
  echo "disk: $(dd if=/dev/vda bs=512 count=8 2>/dev/null | sha256sum | cut -c1-16)"
  ${end}`
const DISK_SIZE = 64 * 1024

let folder: string
let ours: Record<DeviceDescription, string>
let debian: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "boot-matrix-"))
  const kernel = stockKernel()
  const make = (name: string, modules: string[], end: string) => {
    mkdirSync(join(folder, name))
    return makeInitramfs({ folder: join(folder, name), kernel, modules, script: SCRIPT(end) })
  }
  // Without ACPI a guest has no way to power off: it resets, which ends the machine as well.
  ours = { cmdline: make("cmdline", [], "reboot -f"), acpi: make("acpi", [], "") }
  debian = make("debian", ["virtio_mmio", "virtio_blk"], "")
})
afterAll(() => rmSync(folder, { recursive: true }))

interface Case {
  readonly kernel: "vmlinux" | "bzImage" | "Debian's bzImage"
  readonly protocol: BootProtocol
  readonly description: DeviceDescription
  readonly irqchip: InterruptControllerKind
  readonly cpus: number
  readonly memoryMiB?: number
}

function kernelPath(kernel: Case["kernel"]): string {
  if (kernel === "Debian's bzImage") return stockKernel().image
  return guestArtifacts().kernel(kernel === "vmlinux" ? "linux-kvm-x86_64" : "linux-kvm-x86_64-bzimage")
}

async function boot({ kernel, memoryMiB = 128, ...options }: Case) {
  const backend = memoryBackend(DISK_SIZE)
  const disk = randomBytes(DISK_SIZE)
  backend.bytes.set(disk)
  const { machine, text } = await startMachine({
    ...options,
    memoryMiB,
    kernel: kernelPath(kernel),
    initramfs: kernel === "Debian's bzImage" ? debian : ours[options.description],
    cmdline: "console=ttyS0 quiet panic=-1 reboot=k pci=off",
    devices: [new BlockDevice(backend)],
  })
  const end = await machine.exited
  const said = (name: string) => new RegExp(`^${name}: (\\w+)`, "m").exec(text())?.[1]
  return {
    end: end.kind,
    cpus: Number(said("cpus")),
    disk: said("disk"),
    memory: Number(said("memory")),
    text: text(),
    expected: digest(disk),
  }
}

function digest(disk: Buffer): string {
  return createHash("sha256").update(disk.subarray(0, 4096)).digest("hex").slice(0, 16)
}

const IMAGES = [
  ["vmlinux", "linux"],
  ["vmlinux", "pvh"],
  ["bzImage", "linux"],
  ["Debian's bzImage", "linux"],
] as const

const matrix: Case[] = IMAGES.flatMap(
  ([kernel, protocol]) =>
    (["cmdline", "acpi"] as const).flatMap(description =>
      [1, 4].map(cpus => ({ kernel, protocol, description, irqchip: "full" as const, cpus })),
    ),
  // Debian's kernel has neither X86_MPPARSE nor VIRTIO_MMIO_CMDLINE_DEVICES: it learns of devices from ACPI only.
).filter(one => !(one.kernel === "Debian's bzImage" && one.description === "cmdline"))

describe("the boot matrix", () => {
  test.each(matrix)("$kernel by $protocol, devices from $description, $cpus vCPUs", async one => {
    const seen = await boot(one)
    expect(seen.text).toContain("cpus:")
    expect(seen).toMatchObject({
      cpus: one.cpus,
      disk: seen.expected,
      end: one.description === "acpi" ? "power-off" : "reset",
    })
  })

  test.each(["vmlinux", "Debian's bzImage"] as const)(
    "%s with a split interrupt controller",
    async kernel => {
      const seen = await boot({ kernel, protocol: "linux", description: "acpi", irqchip: "split", cpus: 2 })
      expect(seen).toMatchObject({ cpus: 2, disk: seen.expected, end: "power-off" })
    },
  )

  test.each([64, 3 * 1024, 3 * 1024 + 64, 6 * 1024, 20 * 1024])("%i MiB of RAM", async memoryMiB => {
    const seen = await boot({
      kernel: "vmlinux",
      protocol: "linux",
      description: "acpi",
      irqchip: "full",
      cpus: 1,
      memoryMiB,
    })
    expect(seen).toMatchObject({ disk: seen.expected, end: "power-off" })
    expect(seen.memory).toBeLessThanOrEqual(memoryMiB)
    expect(seen.memory).toBeGreaterThan(memoryMiB * 0.9 - 32)
  })
})
