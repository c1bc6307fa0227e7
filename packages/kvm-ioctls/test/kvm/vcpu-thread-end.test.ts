import { spawnSync } from "node:child_process"
import { once } from "node:events"
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { Worker } from "node:worker_threads"
import { describe, expect, test, vi } from "vitest"
import { KVM_RUN_OFFSETS } from "../../src/structs/kvm-run.js"
import { HLT, IN_AL_DX, loop, SPIN, tableWith } from "../support/real-mode.js"
import { create, createVm, start, until } from "../support/vcpu-threads.js"

const PORT = 0x10
const SPIN_SCRIPT = fileURLToPath(new URL("../support/spin.cjs", import.meta.url))

/** Threads of this process by name, as the numbers of their tasks. */
function tasks(name: string): string[] {
  return readdirSync("/proc/self/task").filter(task => {
    try {
      return readFileSync(`/proc/self/task/${task}/comm`, "latin1").trim() === name
    } catch {
      return false
    }
  })
}

describe("stop", () => {
  test("before the start", async () => {
    const thread = create(createVm().addVcpu([HLT]), tableWith())

    await thread.stop()

    expect(thread.state).toBe("ended")
    expect(await thread.ended).toEqual({})
    expect(() => thread.start()).toThrow(expect.objectContaining({ code: "invalid-argument" }))
    await thread.pause()
    thread.resume()
    expect(thread.state).toBe("ended")
  })

  test("with the vCPU spinning with interrupts off, and paused there", async () => {
    for (const pause of [false, true]) {
      const { thread } = start(createVm().addVcpu(SPIN), tableWith())
      if (pause) await thread.pause()

      await thread.stop()

      expect(await thread.ended).toEqual({})
      expect(tasks("vcpu0")).toEqual([])
    }
  })

  test("before a pause has come about, which resolves too", async () => {
    const { thread } = start(createVm().addVcpu(SPIN), tableWith())
    const paused = thread.pause()

    void thread.stop()
    await Promise.all([paused, thread.pause()])

    expect(thread.state).toBe("ended")
  })

  test("halted in the kernel", async () => {
    const { thread } = start(createVm({ irqchip: true }).addVcpu([HLT]), tableWith())
    await thread.pause()
    thread.resume()

    await thread.stop()

    expect(await thread.ended).toEqual({})
  })

  test("at an exit that is never answered, and again", async () => {
    const { thread, exits } = start(
      createVm().addVcpu([0xe4, PORT, HLT]),
      tableWith(),
      () => new Promise(() => undefined),
    )
    await until(() => exits.length === 1)

    await Promise.all([thread.stop(), thread.stop()])

    await thread.stop()
    expect(exits).toEqual(["in 10"])
  })

  test("with vCPU and machine closed under the thread", async () => {
    const vm = createVm()
    const vcpu = vm.addVcpu(SPIN)
    const { thread } = start(vcpu, tableWith())

    vcpu.close()
    vm.vm.close()
    await thread.pause()
    thread.resume()
    await thread.stop()

    expect(await thread.ended).toEqual({})
  })
})

describe("a vCPU that cannot go on", () => {
  test("ends the thread with the errno of KVM_RUN", async () => {
    const vcpu = createVm().addVcpu([HLT])
    // Register sets that no kernel knows.
    new DataView(vcpu.runMapping.buffer).setBigUint64(KVM_RUN_OFFSETS.kvm_valid_regs, 1n << 63n, true)

    const { thread, exits } = start(vcpu, tableWith())

    expect(await thread.ended).toEqual({ errno: 22 })
    expect(thread.state).toBe("ended")
    expect(exits).toEqual([])
  })

  test.each([
    ["an instruction outside of memory", [0xea, 0, 0, 0, 0x20], "internal-error"],
    ["a triple fault", [0x0f, 0x01, 0x1e, 0x00, 0x80, 0xcc], "shutdown"],
  ])("%s is an exit", async (_, code, reason) => {
    const { thread, exits } = start(createVm().addVcpu(code), tableWith(), () => void thread.stop())

    await thread.ended

    expect(exits).toEqual([reason])
  })
})

test("four vCPUs exit at once, each in its own order", async () => {
  const vm = createVm()
  const times = 300
  const counts = [0, 0, 0, 0]
  const table = tableWith()
  const threads = counts.map((_, index) =>
    start(vm.addVcpu(loop(times, PORT + index, [IN_AL_DX])), table, exit => {
      if (exit.reason === "io" && exit.port === PORT + index) counts[index] = (counts[index] ?? 0) + 1
    }),
  )

  await Promise.all(threads.map(({ thread }) => thread.ended))

  expect(counts).toEqual([times, times, times, times])
})

test("a thread is named, takes no signal but the kick, and leaves nothing behind", async () => {
  const vm = createVm()
  const vcpu = vm.addVcpu(SPIN)
  const before = readdirSync("/proc/self/fd").length
  const { thread } = start(vcpu, tableWith())

  await vi.waitFor(() => expect(tasks("vcpu0")).toHaveLength(1))
  const status = readFileSync(`/proc/self/task/${tasks("vcpu0")[0]}/status`, "latin1")
  const blocked = BigInt(`0x${/^SigBlk:\s*(\w+)/m.exec(status)?.[1]}`)
  const isBlocked = (signal: number): boolean => (blocked & (1n << BigInt(signal - 1))) !== 0n
  const SIGRTMIN = 34
  // SIGHUP, SIGINT, SIGUSR1, SIGTERM, SIGCHLD, and real-time signals around the kick
  expect([1, 2, 10, 15, 17, SIGRTMIN, SIGRTMIN + 1].map(isBlocked)).toEqual([
    ...[true, true, true, true, true, false, true],
  ])
  await thread.stop()

  await vi.waitFor(() => expect(readdirSync("/proc/self/fd").length).toBe(before))
  expect(tasks("vcpu0")).toEqual([])
})

describe("the end of who made the threads", () => {
  test("a process exits, with the code that it wants, while vCPUs run", () => {
    const { status, signal, stdout } = spawnSync(process.execPath, [SPIN_SCRIPT, "exit"], {
      encoding: "utf8",
    })

    expect({ status, signal, stdout }).toEqual({ status: 7, signal: null, stdout: "parked\n" })
  })

  test("a process ends by itself once its threads are let go of", () => {
    const { status, signal } = spawnSync(process.execPath, [SPIN_SCRIPT, "unref"])

    expect({ status, signal }).toEqual({ status: 0, signal: null })
  })

  test("a Worker is terminated, and nothing of its machine is left", async () => {
    // The first Worker makes Node open a few fds for good.
    await once(new Worker("", { eval: true }), "exit")
    const before = readdirSync("/proc/self/fd").length
    const worker = new Worker(SPIN_SCRIPT, { workerData: "worker" })
    await once(worker, "message")
    expect(tasks("spin0")).toHaveLength(1)

    await worker.terminate()

    expect([tasks("spin0"), tasks("spin1"), tasks("spin2")]).toEqual([[], [], []])
    await vi.waitFor(() => expect(readdirSync("/proc/self/fd").length).toBe(before))
  })
})
