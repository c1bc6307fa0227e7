import type { VmFd } from "@ts-vmm/kvm-ioctls"
import { closeFd, eventFd, signal } from "@ts-vmm/native"

/** The part of a VM that interrupt lines need. */
export type IrqVm = Pick<VmFd, "registerIrqfd" | "unregisterIrqfd">

/** An interrupt as devices see it: an eventfd that KVM turns into an edge on a GSI, without leaving the kernel. */
export class IrqLine {
  /** For whoever raises the interrupt without us; stays the line's. */
  readonly fd: number
  readonly #vm: IrqVm
  readonly #gsi: number

  /** @throws KvmError `ioctl`; SysError `EMFILE` */
  constructor(vm: IrqVm, gsi: number) {
    this.#vm = vm
    this.#gsi = gsi
    this.fd = eventFd()
    try {
      vm.registerIrqfd(this.fd, gsi)
    } catch (error) {
      closeFd(this.fd)
      throw error
    }
  }

  /** Raises the interrupt once. */
  raise(): void {
    signal(this.fd, "eventfd")
  }

  /** Whoever else has the fd raises nothing with it from here on. */
  close(): void {
    this.#vm.unregisterIrqfd(this.fd, this.#gsi)
    closeFd(this.fd)
  }
}
