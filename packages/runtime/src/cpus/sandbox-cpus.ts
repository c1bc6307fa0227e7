import type { AgentClient } from "@ts-vmm/guest"
import type { WaitOptions } from "../deadline.js"
import { fromGuestError } from "../guest-errors.js"
import { type CpuConfig, checkOnline } from "./options.js"

/** How many virtual CPUs a sandbox works with. */
export interface CpuReport {
  /** Those that its guest was last told to work with. */
  readonly online: number
  /** Most that it can work with. */
  readonly max: number
}

/**
 * The virtual CPUs of a running sandbox. The machine has `max` of them from its boot, on KVM; those that the guest does not
 * work with sleep, and cost their thread's memory. Programs are moved off one that is taken away.
 *
 * It is the guest's good will: what must hold is held by a control group of the host.
 *
 * @see Documentation/core-api/cpu_hotplug.rst of Linux
 *
 * @example
 * ```ts
 * import { Sandbox } from "@ts-vmm/runtime"
 *
 * await using sandbox = await Sandbox.create({ image: "oci:./image", hypervisor: "kvm", cpus: 1, cpusMax: 4 })
 * await sandbox.cpus.setOnline(4)
 * ```
 */
export class SandboxCpus implements CpuReport {
  readonly max: number
  readonly #agent: AgentClient
  #online: number
  #last: Promise<unknown> = Promise.resolve()

  constructor({ cpus, cpusMax }: CpuConfig, agent: AgentClient) {
    this.max = cpusMax
    this.#agent = agent
    this.#online = cpus
  }

  get online(): number {
    return this.#online
  }

  /**
   * Has the guest work with so many CPUs; resolves when it does. One that it cannot start or stop ends the attempt, and
   * those before it stay as they were asked to be. Calls that overlap are carried out one after the other.
   *
   * @throws SandboxError `invalid-argument`; `agent-failed` when the guest's kernel refuses; `timeout`, `aborted`
   */
  async setOnline(online: number, options: WaitOptions = {}): Promise<void> {
    checkOnline("the number of CPUs", online, this.max)
    const turn = this.#last.then(() => this.#set(online, options))
    this.#last = turn.catch(() => undefined)
    await turn
  }

  async #set(online: number, options: WaitOptions): Promise<void> {
    try {
      await this.#agent.setProcessors(online, options)
    } catch (error) {
      throw fromGuestError(error)
    }
    this.#online = online
  }
}
