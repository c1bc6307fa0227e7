import { VcpuThread } from "@ts-vmm/kvm-ioctls"
import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import { Cleanup } from "./cleanup.js"
import { checkConfig, type MachineConfig, type MachinePlan } from "./config.js"
import { VmmError } from "./errors.js"
import { MachineEmitter, type MachineEnd } from "./events.js"
import { type ExitHost, handleExit } from "./exits.js"
import { buildHardware, type Hardware } from "./hardware.js"

/** Where a machine is in its life. */
export type MachineState = "created" | "running" | "paused" | "ended"

const STOPPED: MachineEnd = { kind: "stopped", description: "the machine was stopped" }

/**
 * A virtual machine on KVM: x86-64, virtio-mmio devices, a serial console, nothing else that a guest could get
 * a hold of.
 *
 * ```
 *                start()            pause()
 *   created ----------------> running <------> paused
 *      |                        |    resume()    |
 *      '------------------------+----------------'
 *                               |  stop(), or the guest powers off, resets, crashes
 *                               v
 *                             ended      nothing is held any more: threads, memory, fds
 * ```
 *
 * All device state lives on the thread that made the machine; vCPUs run on native threads.
 *
 * @example
 * ```ts
 * import { MicroVm } from "@ts-vmm/vmm"
 *
 * const machine = await MicroVm.create({ kernel: "vmlinux", cmdline: "console=ttyS0", memoryMiB: 128 })
 * machine.on("console", bytes => process.stdout.write(bytes))
 * machine.start()
 * const { kind } = await machine.exited   // "power-off", "reset", …
 * ```
 */
export class MicroVm extends MachineEmitter implements AsyncDisposable {
  /** Settles once, when the machine has ended and holds nothing any more. Never rejects. */
  readonly exited: Promise<MachineEnd>
  readonly #cleanup = new Cleanup()
  #hardware!: Hardware
  #threads: readonly VcpuThread[] = []
  #state: MachineState = "created"
  #end: MachineEnd | undefined
  #resolveExited!: (end: MachineEnd) => void

  private constructor() {
    super()
    this.exited = new Promise(resolve => {
      this.#resolveExited = resolve
    })
  }

  /**
   * Builds a machine with its guest loaded, ready for the first instruction.
   *
   * @throws VmmError `memory-size`, `vcpu-count`, `config-invalid`, `exhausted`, `capability-missing`; LoaderError
   * for a kernel, initial RAM disk or command line that is refused; KvmError `unavailable`, `ioctl`; SysError
   */
  static async create(config: MachineConfig): Promise<MicroVm> {
    const plan = checkConfig(config)
    const machine = new MicroVm()
    try {
      machine.#build(plan)
      return machine
    } catch (error) {
      await machine.#cleanup.run()
      throw error
    }
  }

  /** Where it is in its life. */
  get state(): MachineState {
    return this.#state
  }

  /** Guest RAM; detached once the machine has ended. */
  get memory(): MappedMemory {
    return this.#hardware.memory
  }

  /** Runs the vCPUs. @throws VmmError `machine-state` unless it was just created */
  start(): void {
    this.#expect("created", "started")
    this.#state = "running"
    for (const thread of this.#threads) thread.start()
  }

  /**
   * Takes every vCPU out of the guest; resolves when none runs any more. Devices finish what they have begun.
   * @throws VmmError `machine-state` unless it runs
   */
  async pause(): Promise<void> {
    this.#expect("running", "paused")
    this.#state = "paused"
    await Promise.all(this.#threads.map(thread => thread.pause()))
  }

  /** Lets the vCPUs go on. @throws VmmError `machine-state` unless it is paused */
  resume(): void {
    this.#expect("paused", "resumed")
    this.#state = "running"
    for (const thread of this.#threads) thread.resume()
  }

  /**
   * Ends the machine, whatever the guest does: also when a vCPU spins with interrupts off. Resolves as `exited`
   * does. Safe to call at any time and more than once.
   */
  stop(): Promise<MachineEnd> {
    this.#finish(STOPPED)
    return this.exited
  }

  /**
   * Input for the guest's serial console. The bytes must not change afterwards.
   * @returns false when the machine has ended, or the guest has left 64 KiB unread: nothing was taken
   */
  writeConsole(bytes: Uint8Array): boolean {
    return this.#end === undefined && this.#hardware.legacy.serialPort.enqueue(bytes)
  }

  /**
   * Gives the machine one device more, in an empty slot; it is the machine's from here on. The guest finds it when its
   * driver looks at the slot again: on Linux, when the slot's name is written to
   * `/sys/bus/platform/drivers/virtio-mmio/bind`.
   *
   * @returns guest address of the slot, by which the guest knows it (`/proc/iomem`)
   * @throws VmmError `exhausted` without an empty slot, `machine-state` when it has ended, `config-invalid`; KvmError,
   *   SysError
   */
  plug(device: VirtioDevice): number {
    if (this.#end !== undefined) this.#expect("running", "given a device")
    const slot = this.#hardware.slots.find(one => one.free)
    if (!slot) throw new VmmError("exhausted", "the machine has no empty slot for a device")
    slot.plug(device)
    return slot.place.base
  }

  /**
   * Takes a device out of the machine, whatever the guest is doing with it: its driver should have let go of it before
   * (`unbind`, beside `bind`). Nothing touches guest memory for it once this resolves.
   *
   * @throws VmmError `not-found` when the machine does not have it
   */
  async unplug(device: VirtioDevice): Promise<void> {
    const slot = this.#hardware.slots.find(one => one.device === device)
    if (!slot) throw new VmmError("not-found", "the machine does not have that device")
    await slot.unplug()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  #build(plan: MachinePlan): void {
    const host = {
      onConsole: (bytes: Uint8Array) => void this.emit("console", bytes),
      onDeviceBroken: (error: Error) => void this.emit("deviceBroken", error),
      onEnd: (reason: MachineEnd) => this.#finish(reason),
    }
    this.#hardware = buildHardware(plan, host, this.#cleanup)
    this.#threads = this.#createThreads()
  }

  #createThreads(): VcpuThread[] {
    const { ports, mmio, interrupts, table, vcpus } = this.#hardware
    const host: ExitHost = { ports, mmio, interrupts, end: reason => this.#finish(reason) }
    return vcpus.map((vcpu, index) => {
      const thread = new VcpuThread(vcpu, {
        index,
        answers: table,
        onExit: exit => handleExit(host, index, exit),
      })
      thread.ended.then(
        ({ errno }) =>
          errno !== undefined && this.#finish(failed(index, `KVM_RUN failed with errno ${errno}`)),
        (error: Error) => this.#finish(failed(index, error.message)),
      )
      return thread
    })
  }

  #expect(state: MachineState, what: string): void {
    if (this.#state === state) return
    throw new VmmError("machine-state", `a machine that is ${this.#state} cannot be ${what}`)
  }

  /** The first reason counts. */
  #finish(reason: MachineEnd): void {
    if (this.#end !== undefined) return
    this.#end = reason
    this.#state = "ended"
    this.#release().then(() => {
      this.emit("exit", reason)
      this.#resolveExited(reason)
    })
  }

  /** vCPUs first: from then on nobody but us touches devices and memory. */
  async #release(): Promise<void> {
    await Promise.all(this.#threads.map(thread => thread.stop()))
    this.#hardware.table.flush()
    await this.#cleanup.run()
  }
}

function failed(vcpu: number, description: string): MachineEnd {
  return { kind: "failed", vcpu, description: `vCPU ${vcpu}: ${description}` }
}
