import type { ExitTable } from "@ts-vmm/native"
import { afterEach } from "vitest"
import type { VcpuExit } from "../../src/exit.js"
import type { VcpuFd } from "../../src/vcpu.js"
import { VcpuThread } from "../../src/vcpu-thread.js"
import { RealModeVm } from "./real-mode.js"

const machines: RealModeVm[] = []
const threads: VcpuThread[] = []
afterEach(async () => {
  await Promise.all(threads.splice(0).map(thread => thread.stop()))
  for (const machine of machines.splice(0)) machine[Symbol.dispose]()
})

/** A machine that the end of the test closes. */
export function createVm(options?: { readonly irqchip: boolean }): RealModeVm {
  const machine = new RealModeVm(options)
  machines.push(machine)
  return machine
}

/** An exit in a form that outlives the page. */
export function describeExit(exit: VcpuExit): string {
  if (exit.reason === "io") return `${exit.direction} ${exit.port.toString(16)}`
  if (exit.reason !== "mmio") return exit.reason
  return `${exit.isWrite ? "write" : "read"} ${exit.address.toString(16)} ${exit.data.length}`
}

/** A thread that the end of the test stops. */
export function create(vcpu: VcpuFd, answers: ExitTable, onExit: Answer = () => undefined): VcpuThread {
  const thread = new VcpuThread(vcpu, { index: 0, answers, onExit })
  threads.push(thread)
  return thread
}

/** What a test does with an exit. */
export type Answer = (exit: VcpuExit) => void | Promise<void>

/** See {@link start}. */
export interface Started {
  readonly thread: VcpuThread
  /** All exits so far. */
  readonly exits: string[]
}

/** Runs a vCPU whose thread stops at HLT; `answer` gets every other exit. */
export function start(vcpu: VcpuFd, answers: ExitTable, answer: Answer = () => undefined): Started {
  const exits: string[] = []
  const thread = create(vcpu, answers, exit => {
    exits.push(describeExit(exit))
    if (exit.reason === "hlt") return void thread.stop()
    return answer(exit)
  })
  thread.start()
  return { thread, exits }
}

/** Waits for what the guest is about to do. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 1))
}
