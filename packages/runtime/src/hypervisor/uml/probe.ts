import { existsSync } from "node:fs"
import { guestArtifacts } from "@ts-vmm/guest/artifacts"
import { ConsoleLog } from "../../console-log.js"
import { withDeadline } from "../../deadline.js"
import type { HypervisorProbe, UmlMode } from "../hypervisor.js"
import { umlCommandLine } from "./command-line.js"
import { withTemporaryDirectory } from "./temporary-directory.js"
import { startUmlProcess, UmlMachine } from "./uml-machine.js"

const PROBE_MEMORY_MIB = 32
const PROBE_TIMEOUT_MS = 10_000
/** The agent prints this and powers off when the command line says `tsvmm.probe`. */
const PROBE_ANSWER = "tsvmm: probe ok"

/** Boots a guest without devices to its first program, which says so and powers off. */
export async function probeUml(kernel: string, mode: UmlMode): Promise<HypervisorProbe> {
  if (!existsSync(kernel))
    return { usable: false, reason: `guest kernel ${kernel} is missing: run npm run build` }
  const startedAt = performance.now()
  const log = new ConsoleLog()
  try {
    await withTemporaryDirectory(directory => bootProbe(kernel, mode, directory, log))
  } catch (error) {
    return { usable: false, reason: (error as Error).message }
  }
  const ms = Math.round(performance.now() - startedAt)
  if (log.lastLines(100).includes(PROBE_ANSWER))
    return { usable: true, reason: `a guest ran its first program and ended within ${ms} ms (${mode} mode)` }
  return {
    usable: false,
    reason: `the guest kernel did not reach its first program: ${log.lastLines(1) || "no output"}`,
  }
}

async function bootProbe(kernel: string, mode: UmlMode, directory: string, log: ConsoleLog): Promise<void> {
  const spec = {
    directory,
    initramfs: guestArtifacts().initramfs,
    memoryMiB: PROBE_MEMORY_MIB,
    cpus: 1,
    devices: [],
    kernelArguments: ["tsvmm.probe"],
    onDeviceError: () => undefined,
  }
  const machine = new UmlMachine(
    startUmlProcess(kernel, umlCommandLine(spec, [], mode), directory),
    async () => undefined,
  )
  machine.onConsole(chunk => log.push(chunk))
  try {
    await withDeadline(machine.exited, "the test guest", { timeoutMs: PROBE_TIMEOUT_MS })
  } finally {
    await machine.kill()
  }
}
