import { type ChildProcess, spawn } from "node:child_process"
import type { Readable, Writable } from "node:stream"
import { launcherPath } from "@ts-vmm/native"
import type { Machine, MachineExit } from "../hypervisor.js"

/** Where the launcher listens for its owner's end. */
const CONTROL_FD = 3

/**
 * Starts a UML kernel below `tsvmm-launch`, which ends the kernel and all of its helpers when this process
 * ends in whatever way, SIGKILL included.
 */
export function startUmlProcess(kernel: string, args: readonly string[], directory: string): ChildProcess {
  return spawn(launcherPath(), ["--chdir", directory, "--", kernel, ...args], {
    // UML does not start without HOME. It gets nothing else: what is in our environment is none of a guest's business.
    env: { HOME: directory },
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  })
}

/** A running UML kernel and the vhost-user servers of its devices. */
export class UmlMachine implements Machine {
  readonly pid: number
  readonly exited: Promise<MachineExit>
  readonly #child: ChildProcess

  constructor(child: ChildProcess, closeDevices: () => void) {
    this.#child = child
    this.pid = child.pid ?? -1
    // The launcher may be gone before we let go of the pipe: that is no error of ours.
    this.#control.on("error", () => undefined)
    this.exited = exitOf(child).then(exit => {
      closeDevices()
      return exit
    })
  }

  onConsole(listener: (chunk: Buffer) => void): void {
    for (const stream of [this.#child.stdout, this.#child.stderr] as Readable[]) stream.on("data", listener)
  }

  async kill(): Promise<void> {
    this.#control.destroy()
    await this.exited
  }

  get #control(): Writable {
    return this.#child.stdio[CONTROL_FD] as Writable
  }
}

function exitOf(child: ChildProcess): Promise<MachineExit> {
  return new Promise(resolve => {
    child.once("error", error => resolve({ how: error.message }))
    child.once("exit", (code, signal) => resolve({ how: signal ?? `code ${code}` }))
  })
}
