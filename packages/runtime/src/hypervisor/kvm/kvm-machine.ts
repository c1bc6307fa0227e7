import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import type { MicroVm } from "@ts-vmm/vmm"
import type { DeviceSlots, Machine, MachineExit } from "../hypervisor.js"
import { asSandboxError } from "./errors.js"

/** A microVM of this process as the runtime sees it. */
export class KvmMachine implements Machine {
  readonly pid = process.pid
  readonly exited: Promise<MachineExit>
  readonly slots: DeviceSlots
  readonly #vm: MicroVm

  constructor(vm: MicroVm) {
    this.#vm = vm
    this.slots = {
      plug: (device: VirtioDevice) => {
        try {
          return vm.plug(device)
        } catch (error) {
          throw asSandboxError(error as Error)
        }
      },
      unplug: device => vm.unplug(device),
    }
    this.exited = vm.exited.then(({ description }) => ({ how: description }))
  }

  onConsole(listener: (chunk: Buffer) => void): void {
    this.#vm.on("console", bytes => listener(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)))
  }

  async kill(): Promise<void> {
    await this.#vm.stop()
  }
}
