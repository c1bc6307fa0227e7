import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { TEST_IMAGE_DIR, Workplace } from "./cli.js"
import { HYPERVISOR, PATIENCE_MS, underTest } from "./under-test.js"

const SOON = { timeout: PATIENCE_MS, interval: 20 }
const stateDir = mkdtempSync(join(tmpdir(), "tsv-"))
const image = `oci:${busyboxImage()}`
const place = new Workplace()
afterAll(() => {
  rmSync(stateDir, { recursive: true })
  place.remove()
})

// On KVM a guest is threads of this process, which nobody can stop from outside; the watchdog is the same.
const onUml = test.skipIf(HYPERVISOR === "kvm")

/** The process that is the kernel of a guest: the only child of its launcher. Its own children, which it traces, stay as they are. */
function kernelOf(launcher: number): number {
  const [kernel = ""] = readFileSync(`/proc/${launcher}/task/${launcher}/children`, "latin1").split(" ")
  return Number(kernel)
}

onUml("a guest that hangs is an event, and so is one that goes on", async () => {
  await using sandbox = await Sandbox.create({
    ...{ image, paths: { stateDir, imageDir: TEST_IMAGE_DIR }, memoryMiB: 64 },
    ...underTest,
    watchdogMs: 300,
  })
  // From here on: on a machine that has much else to do a guest may be silent for so long without our doing.
  const told: string[] = []
  let silentMs = 0
  sandbox.on("unresponsive", ms => {
    silentMs = ms
    told.push("unresponsive")
  })
  sandbox.on("responsive", () => told.push("responsive"))
  expect((await sandbox.exec("echo", ["up"])).stdout).toBe("up\n")
  const kernel = kernelOf(sandbox.pid ?? -1)
  process.kill(kernel, "SIGSTOP")
  await expect.poll(() => told.at(-1), SOON).toBe("unresponsive")
  expect(silentMs).toBeGreaterThanOrEqual(300)
  process.kill(kernel, "SIGCONT")
  await expect.poll(() => told.at(-1), SOON).toBe("responsive")
  expect((await sandbox.exec("echo", ["again"])).stdout).toBe("again\n")
})

onUml("run --watchdog ends a guest that hangs, and leaves nothing", async () => {
  // Longer than a machine that has much else to do keeps a guest from answering before it is up.
  const child = place.start(["run", "--rm", "--watchdog", "5", image, "sh", "-c", "echo up; sleep 1000"])
  let stderr = ""
  child.stderr.on("data", chunk => (stderr += chunk))
  const ended = new Promise(resolve => child.once("close", resolve))
  await new Promise(resolve => child.stdout.once("data", resolve))
  process.kill(kernelOf(kernelOf(child.pid ?? -1)), "SIGSTOP")
  expect(await ended).toBe(125)
  expect(stderr).toContain("the guest does not answer")
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
})
