import { execFileSync } from "node:child_process"
import { setTimeout as sleep } from "node:timers/promises"
import { Sandbox } from "@ts-vmm/runtime"
import { afterAll, describe, expect, test } from "vitest"
import { busyboxImage } from "../fixtures/images.js"
import { collect, Workplace } from "./cli.js"
import { HYPERVISOR, PATIENCE_MS, underTest } from "./under-test.js"

const place = new Workplace()
const paths = { stateDir: place.stateDir, imageDir: place.env["TS_VMM_IMAGE_DIR"] as string }
const image = `oci:${busyboxImage()}`

afterAll(() => {
  expect(place.leftProcesses()).toEqual([])
  expect(place.leftFiles()).toEqual([])
  place.remove()
})

/** Under KVM the guest is no process that could be signalled: test/kvm has guests that panic, crash and hang. */
const testWithProcess = test.skipIf(HYPERVISOR !== "uml")

async function until(condition: () => boolean, ms = PATIENCE_MS): Promise<void> {
  const end = Date.now() + ms
  while (!condition()) {
    if (Date.now() > end) throw new Error("the condition did not come true")
    await sleep(20)
  }
}

describe("however a sandbox ends, nothing of it stays", () => {
  test("R8: the caller is killed with SIGKILL", async () => {
    const child = place.start(["run", "--rm", image, "sh", "-c", "echo up; sleep 1000"])
    await new Promise(resolve => child.stdout.once("data", resolve))
    if (HYPERVISOR === "uml") expect(place.leftProcesses().length).toBeGreaterThan(1)
    // A process that ends shows no command line any more while it still holds its lock.
    const gone = collect(child)
    process.kill(child.pid as number, "SIGKILL")
    await gone
    await until(() => place.leftProcesses().length === 0)
    expect(place.leftFiles()).not.toEqual([])
    const pruned = await place.run(["prune"])
    expect(pruned.stdout.toString()).toMatch(/^[0-9a-f]{12}\n$/)
    expect(place.leftFiles()).toEqual([])
  })

  test("R8: the next start removes what a killed caller left", async () => {
    const child = place.start(["run", "--rm", image, "sh", "-c", "echo up; sleep 1000"])
    await new Promise(resolve => child.stdout.once("data", resolve))
    const gone = collect(child)
    process.kill(child.pid as number, "SIGKILL")
    await gone
    await until(() => place.leftProcesses().length === 0)
    expect((await place.run(["run", "--rm", image, "true"])).exitCode).toBe(0)
    expect(place.leftFiles()).toEqual([])
  })

  testWithProcess("D2: the guest kernel is killed", async () => {
    const sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
    const running = sandbox.exec("sleep", ["1000"])
    const failed = expect(running).rejects.toMatchObject({ code: "guest-died" })
    await sleep(200)
    killGuestKernel(place)
    await failed
    expect((await sandbox.wait({ timeoutMs: PATIENCE_MS })).requested).toBe(false)
    expect(sandbox.status).toBe("failed")
  })

  testWithProcess("the guest kernel panics", async () => {
    const sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
    // The agent is the guest's init: when it is gone the guest kernel panics. From a container it cannot be
    // reached, so the kernel is asked from outside, as a bug in it would do: by a fault of its own.
    const reason = sandbox.wait({ timeoutMs: PATIENCE_MS })
    signalGuestKernel(place, "SIGSEGV")
    expect((await reason).requested).toBe(false)
  })

  testWithProcess("the guest hangs: destroy still works", async () => {
    const sandbox = await Sandbox.create({ image, paths, memoryMiB: 128, ...underTest })
    signalGuestKernel(place, "SIGSTOP")
    await expect(sandbox.exec("true", [], { timeoutMs: 500 })).rejects.toMatchObject({ code: "timeout" })
    await sandbox.destroy()
    expect(sandbox.status).toBe("stopped")
  })

  test("SIGTERM to the command line reaches the program, whose code is then the run's", async () => {
    const child = place.start([
      "run",
      "--rm",
      image,
      "sh",
      "-c",
      "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done",
    ])
    const ended = collect(child)
    await new Promise(resolve => child.stdout.once("data", resolve))
    child.kill("SIGTERM")
    expect((await ended).exitCode).toBe(5)
  })

  test("SIGINT during the start ends it", async () => {
    const child = place.start(["run", "--rm", image, "sleep", "1000"])
    const ended = collect(child)
    await until(() => place.leftFiles().length > 0)
    child.kill("SIGINT")
    expect((await ended).exitCode).not.toBe(0)
  })
})

describe("ps, kill, rm", () => {
  test("rm -f ends one that has only begun to start, and one that ends meanwhile", async () => {
    for (const seconds of ["1000", "0"]) {
      const child = place.start(["run", "--rm", "--name", "begins", image, "sleep", seconds])
      const ended = collect(child)
      await until(() => place.leftFiles().some(path => path.endsWith("record.json")))
      const removed = await place.run(["rm", "-f", "begins"])
      // The shorter one may be gone before it is looked for.
      if (seconds === "1000" || removed.exitCode === 0)
        expect(removed).toMatchObject({ stderr: "", exitCode: 0 })
      else expect(removed.stderr).toContain("no such sandbox")
      await ended
      expect(place.leftFiles()).toEqual([])
    }
  })

  test("follow a sandbox from its start to its removal", async () => {
    const child = place.start(["run", "--name", "job", image, "sh", "-c", "echo up; sleep 1000"])
    const ended = collect(child)
    await new Promise(resolve => child.stdout.once("data", resolve))
    expect(JSON.parse((await place.run(["ps", "--json"])).stdout.toString())).toMatchObject([
      { name: "job", status: "running" },
    ])
    const refused = await place.run(["rm", "job"])
    expect(refused.stderr).toContain("is running")
    expect((await place.run(["kill", "job"])).stdout.toString()).toBe("job\n")
    expect((await ended).exitCode).toBe(137)
    expect((await place.run(["ps", "-q"])).stdout.toString()).toBe("")
    expect((await place.run(["ps", "-a"])).stdout.toString()).toContain("stopped (137)")
    expect((await place.run(["run", "--name", "job", image, "true"])).stderr).toContain(
      'the name "job" is in use',
    )
    expect((await place.run(["rm", "job"])).stdout.toString()).toBe("job\n")
    expect(place.leftFiles()).toEqual([])
  })

  test("rm -f ends a running one", async () => {
    const child = place.start(["run", "--rm", "--name", "job2", image, "sh", "-c", "echo up; sleep 1000"])
    const ended = collect(child)
    await new Promise(resolve => child.stdout.once("data", resolve))
    expect((await place.run(["rm", "-f", "job2"])).exitCode).toBe(0)
    expect((await ended).exitCode).not.toBe(0)
  })
})

function guestKernelPid(at: Workplace): number {
  const out = execFileSync("ps", ["-eo", "pid,args"]).toString()
  const line = out
    .split("\n")
    .find(
      one => one.includes("virtio_uml.device") && one.includes(at.stateDir) && !one.includes("tsvmm-launch"),
    )
  return Number(line?.trim().split(" ")[0])
}

function killGuestKernel(at: Workplace): void {
  signalGuestKernel(at, "SIGKILL")
}

function signalGuestKernel(at: Workplace, signal: NodeJS.Signals): void {
  process.kill(guestKernelPid(at), signal)
}
