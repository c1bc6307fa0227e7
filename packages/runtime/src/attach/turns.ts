import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import type { BootedGuest } from "../boot.js"
import { SandboxError } from "../errors.js"
import { fromGuestError } from "../guest-errors.js"
import type { DeviceSlots } from "../hypervisor/hypervisor.js"

/**
 * Changes of a running guest's devices: one after the other, in the order of the calls. What needs them to stay as they
 * are meanwhile, but changes none, shares a turn with others of its kind.
 */
export class Turns {
  #guest: BootedGuest | undefined
  /** Of the changes. */
  #last: Promise<unknown> = Promise.resolve()
  readonly #shared = new Set<Promise<unknown>>()

  /** From here on there is a guest to change, until its machine ends. */
  begin(guest: BootedGuest): void {
    this.#guest = guest
    guest.machine.exited.then(() => {
      this.#guest = undefined
    })
  }

  /** @throws SandboxError `stopped`, and what `work` throws, as a user is told of it */
  take<T>(work: (guest: BootedGuest) => Promise<T>): Promise<T> {
    const turn = Promise.all([this.#last, ...this.#shared]).then(async () => {
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

  /** After the changes that were asked for before, and before those that are asked for until it has ended. */
  share<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(work)
    const ended = turn.then(nothing, nothing)
    this.#shared.add(ended)
    ended.then(() => this.#shared.delete(ended))
    return turn
  }
}

const nothing = () => undefined

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
