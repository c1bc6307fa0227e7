import type { MicroVm } from "@ts-vmm/vmm"
import type { Machine, MachineExit } from "../hypervisor.js"

/** A microVM of this process as the runtime sees it. */
export class KvmMachine implements Machine {
  readonly pid = process.pid
  readonly exited: Promise<MachineExit>
  readonly #vm: MicroVm

  constructor(vm: MicroVm) {
    this.#vm = vm
    this.exited = vm.exited.then(({ description }) => ({ how: description }))
  }

  onConsole(listener: (chunk: Buffer) => void): void {
    this.#vm.on("console", bytes => listener(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)))
  }

  async kill(): Promise<void> {
    await this.#vm.stop()
  }
}
