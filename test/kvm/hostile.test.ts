import { randomBytes } from "node:crypto"
import { readdirSync } from "node:fs"
import { BlockDevice, memoryBackend } from "@ts-vmm/virtio-devices/block"
import { RngDevice } from "@ts-vmm/virtio-devices/rng"
import {
  ACPI_POWER_PORT,
  CMOS_PORT,
  COM1_PORT,
  I8042_PORT,
  MicroVm,
  VIRTIO_MMIO_BASE,
  VIRTIO_MMIO_STEP,
} from "@ts-vmm/vmm"
import { describe, expect, test } from "vitest"
import { bareGuest } from "../fixtures/bare-guest/bare-guest.js"
import { POWER_OFF, runBare, startBare } from "./machine.js"

const MIB = 1024 * 1024
const DISK_SIZE = MIB

const hex = (value: number) => `0x${value.toString(16)}`
/** The windows of three devices and a page behind them where nobody sits; the I/O APIC and the local APIC too. */
const MMIO_WINDOWS = [
  `${hex(VIRTIO_MMIO_BASE)}+${hex(4 * VIRTIO_MMIO_STEP)}`,
  "0xfec00000+0x1000",
  "0xfffbb000+0x1000",
].join(",")
const PORT_WINDOWS = [
  `${hex(COM1_PORT)}+8`,
  `${hex(I8042_PORT)}+5`,
  `${hex(CMOS_PORT)}+2`,
  "0x20+2,0xa0+2,0x40+4,0xcf8+8",
].join(",")
/** What ends the guest on purpose is left alone: the sleep and reset registers, the keyboard controller's command port. */
const AVOID = `${hex(ACPI_POWER_PORT)}+3,0x64+1,0x92+1,0x61+1`

describe("MMIO and PIO fuzz from inside a guest", () => {
  test.each([1, 2])(
    "T5, T6, T7, Q18: seed %i: the machine lives, and its neighbour is untouched",
    async seed => {
      const neighbourDisk = memoryBackend(DISK_SIZE)
      const content = randomBytes(DISK_SIZE)
      neighbourDisk.bytes.set(content)
      const neighbour = await startBare("spin-cli", { devices: [new BlockDevice(neighbourDisk)] })
      await neighbour.shows("spinning")
      await neighbour.machine.pause()
      const before = ramOf(neighbour.machine)

      const broken: Error[] = []
      const { machine, text, shows } = await startBare("fuzz", {
        cmdline: `${POWER_OFF} count=1500 seed=${seed} ports=${PORT_WINDOWS} mmio=${MMIO_WINDOWS} avoid=${AVOID}`,
        devices: [new BlockDevice(memoryBackend(DISK_SIZE)), new RngDevice(), new RngDevice()],
      })
      machine.on("deviceBroken", error => broken.push(error))
      await shows("fuzz done")
      expect((await machine.exited).kind).toBe("power-off")
      expect(text()).toMatch(new RegExp(`fuzz done \\w+ seed 0x0*${seed}\\b`))

      expect(ramOf(neighbour.machine).equals(before)).toBe(true)
      expect(Buffer.from(neighbourDisk.bytes).equals(content)).toBe(true)
      await neighbour.machine.stop()
    },
  )
})

/** The first megabytes of a paused guest's RAM, where all of a bare guest lies. */
function ramOf(machine: MicroVm): Buffer {
  const bytes = Buffer.alloc(2 * MIB)
  machine.memory.read(0, bytes)
  return bytes
}

describe("what the machine refuses", () => {
  test.each([
    ["memory that is too small", { memoryMiB: 32 }, "memory-size"],
    ["C8: memory beyond any address", { memoryMiB: 2 ** 40 }, "memory-size"],
    ["no vCPU", { cpus: 0 }, "vcpu-count"],
    ["too many vCPUs", { cpus: 33 }, "vcpu-count"],
    [
      "a split interrupt controller without ACPI",
      { irqchip: "split", description: "cmdline" },
      "config-invalid",
    ],
    ["a kernel that is not there", { kernel: "/no/such/kernel" }, "config-invalid"],
    ["K1: a text as kernel", { kernel: new URL(import.meta.url).pathname }, "unknown-format"],
    [
      "more devices than interrupts",
      { devices: Array.from({ length: 20 }, () => new RngDevice()) },
      "exhausted",
    ],
    ["K6: a command line that is too long", { cmdline: "x".repeat(4096) }, "cmdline-too-long"],
    ["a KVM node that is not there", { kvmPath: "/no/such/node" }, "unavailable"],
    ["a KVM node that is something else", { kvmPath: "/dev/null" }, "unavailable"],
  ] as const)("%s, with a code and nothing left open", async (_, options, code) => {
    const before = countFds()
    const config = { kernel: bareGuest("power-off"), memoryMiB: 64, ...options }
    await expect(MicroVm.create(config)).rejects.toMatchObject({ code })
    expect(countFds()).toBe(before)
  })

  test("machines that end leave no fd behind", async () => {
    await runBare("power-off")
    const before = countFds()
    for (let round = 0; round < 5; round++)
      await runBare("power-off", { devices: [new RngDevice(), new RngDevice()], cpus: 2 })
    // The loop closes its handles in a later turn.
    await expect.poll(countFds, { timeout: 10_000 }).toBeLessThanOrEqual(before)
  })
})

function countFds(): number {
  return readdirSync("/proc/self/fd").length
}
