import type { VmFd } from "@ts-vmm/kvm-ioctls"
import { closeFd, eventFd, signal } from "@ts-vmm/native"

/** The part of a VM that interrupt lines need. */
export type IrqVm = Pick<VmFd, "registerIrqfd">

/** An interrupt as devices see it: an eventfd that KVM turns into an edge on a GSI, without leaving the kernel. */
export class IrqLine {
  readonly #fd: number

  /** @throws KvmError `ioctl`; SysError `EMFILE` */
  constructor(vm: IrqVm, gsi: number) {
    this.#fd = eventFd()
    try {
      vm.registerIrqfd(this.#fd, gsi)
    } catch (error) {
      closeFd(this.#fd)
      throw error
    }
  }

  /** Raises the interrupt once. */
  raise(): void {
    signal(this.#fd, "eventfd")
  }

  /** The registration goes with the fd. */
  close(): void {
    closeFd(this.#fd)
  }
}
