import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { writeInitramfs } from "@ts-vmm/guest"
import { guestArtifacts } from "@ts-vmm/guest/artifacts"
import { MicroVm } from "@ts-vmm/vmm"
import { describe, expect, test } from "vitest"
import { bareGuest } from "../fixtures/bare-guest/bare-guest.js"
import { runBare, startBare, startMachine } from "./machine.js"

/** What flood-serial writes, over and over. */
const FLOOD = "quick brown fox"

describe("every end of a guest is a typed event", () => {
  test("power off by ACPI's sleep control register", async () => {
    const { end, text } = await runBare("hello-serial")
    expect(end.kind).toBe("power-off")
    expect(text).toContain("hello from a bare guest")
  })

  test("reset by the keyboard controller", async () => {
    expect((await runBare("power-off", { cmdline: "" })).end.kind).toBe("reset")
  })

  test("K7: triple fault", async () => {
    expect((await runBare("triple-fault")).end).toMatchObject({ kind: "triple-fault", vcpu: 0 })
  })

  test("K7: init ends, the kernel panics: a reset, with the panic on the console", async () => {
    const initramfs = join(mkdtempSync(join(tmpdir(), "init-ends-")), "initramfs")
    const busybox = readFileSync("/bin/busybox")
    writeFileSync(
      initramfs,
      writeInitramfs([
        { type: "directory", path: "bin", mode: 0o755 },
        { type: "file", path: "bin/busybox", mode: 0o755, data: busybox },
        { type: "file", path: "init", mode: 0o755, data: Buffer.from("#!/bin/busybox sh\nexit 3\n") },
      ]),
    )
    const { machine, text } = await startMachine({
      kernel: guestArtifacts().kernel("linux-kvm-x86_64"),
      initramfs,
      cmdline: "console=ttyS0 panic=-1 reboot=k pci=off",
    })
    expect((await machine.exited).kind).toBe("reset")
    expect(text()).toContain("Kernel panic")
    rmSync(dirname(initramfs), { recursive: true })
  })

  test.each(["spin-cli", "halt-cli"] as const)("K7: %s, interrupts off: stopped by the host", async name => {
    const { machine, shows } = await startBare(name)
    await shows(name === "spin-cli" ? "spinning" : "halting")
    expect((await machine.stop()).kind).toBe("stopped")
    expect(machine.state).toBe("ended")
  })

  test("C1: a guest that floods the console ends when it is told to, and the process stays responsive", async () => {
    const { machine, shows } = await startBare("flood-serial")
    await shows(FLOOD)
    const before = process.memoryUsage().rss
    let turns = 0
    const until = performance.now() + 1_000
    while (performance.now() < until) {
      await sleep(1)
      turns++
    }
    expect(turns).toBeGreaterThan(20)
    expect(process.memoryUsage().rss - before).toBeLessThan(100 * 2 ** 20)
    expect((await machine.stop()).kind).toBe("stopped")
  })
})

describe("life cycle", () => {
  test("stop before start, twice, and at the same time", async () => {
    const machine = await MicroVm.create({ kernel: bareGuest("spin-cli"), memoryMiB: 64 })
    const ends = await Promise.all([machine.stop(), machine.stop()])
    expect(ends.map(end => end.kind)).toEqual(["stopped", "stopped"])
    expect(() => machine.start()).toThrow(expect.objectContaining({ code: "machine-state" }))
  })

  test("a paused guest does not run, and goes on where it was", async () => {
    const { machine, text, shows } = await startBare("flood-serial")
    await shows(FLOOD)
    for (let round = 0; round < 20; round++) {
      await machine.pause()
      await sleep(20)
      const before = text().length
      await sleep(20)
      expect(text().length).toBe(before)
      machine.resume()
    }
    await machine.stop()
  })

  test("a paused machine can be stopped", async () => {
    const { machine, shows } = await startBare("spin-cli")
    await shows("spinning")
    await machine.pause()
    expect((await machine.stop()).kind).toBe("stopped")
  })
})
