import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import type { BootedGuest } from "../boot.js"
import { SandboxError } from "../errors.js"
import { fromGuestError } from "../guest-errors.js"
import type { DeviceSlots } from "../hypervisor/hypervisor.js"

/** Changes of a running guest's devices: one after the other, in the order of the calls. */
export class Turns {
  #guest: BootedGuest | undefined
  #last: Promise<unknown> = Promise.resolve()

  /** From here on there is a guest to change, until its machine ends. */
  begin(guest: BootedGuest): void {
    this.#guest = guest
    guest.machine.exited.then(() => {
      this.#guest = undefined
    })
  }

  /** @throws SandboxError `stopped`, and what `work` throws, as a user is told of it */
  take<T>(work: (guest: BootedGuest) => Promise<T>): Promise<T> {
    const turn = this.#last.then(async () => {
      if (!this.#guest) throw new SandboxError("stopped", "the sandbox is not running")
      try {
        return await work(this.#guest)
      } catch (error) {
        throw fromGuestError(error)
      }
    })
    this.#last = turn.catch(() => undefined)
    return turn
  }
}

/** @throws SandboxError `hypervisor-unavailable` */
export function slotsOf({ machine }: BootedGuest): DeviceSlots {
  if (machine.slots) return machine.slots
  const message =
    "this hypervisor cannot give a running sandbox a device, nor use one that another process serves: use kvm"
  throw new SandboxError("hypervisor-unavailable", message)
}

/**
 * Gives the guest a device, which its driver takes.
 *
 * @param undo - gets the steps that take it away again
 * @returns guest address of its registers
 * @throws SandboxError `hypervisor-unavailable`, `invalid-argument` when there is no slot left; GuestError
 */
export async function plug(
  guest: BootedGuest,
  device: VirtioDevice,
  undo: (() => unknown)[],
): Promise<number> {
  const slots = slotsOf(guest)
  const address = slots.plug(device)
  undo.push(() => slots.unplug(device))
  await guest.agent.bindDevice(address)
  undo.push(() => guest.agent.unbindDevice(address))
  return address
}

/** Last step first, each of them, whatever becomes of the others. @throws what the first one that failed threw */
export async function undoAll(steps: readonly (() => unknown)[]): Promise<void> {
  const errors: unknown[] = []
  for (const step of [...steps].reverse()) {
    try {
      await step()
    } catch (error) {
      errors.push(error)
    }
  }
  if (errors.length > 0) throw errors[0]
}
