import type { BootedGuest } from "../boot.js"
import { type OpenedVolume, openVolume, type VolumeHost } from "../container/volume-devices.js"
import { checkMount, type SandboxMount, type Volume, volumeStorage } from "../container/volumes.js"
import { SandboxError } from "../errors.js"
import { fromGuestError } from "../guest-errors.js"
import type { DeviceSlots } from "../hypervisor/hypervisor.js"
import type { SandboxConfig } from "../options.js"

/** gRPC's FAILED_PRECONDITION: a program of the container uses it. */
const IN_USE = "is in use"

interface Attachment extends OpenedVolume {
  readonly volume: Volume
  readonly address: number
}

/**
 * The volumes of a sandbox: those that it booted with, and those that come and go while it runs.
 *
 * ```
 *   attach:  open -> plug -> the guest's driver binds -> mounted in the guest -> shown in each container
 *   detach:  the same backwards; in use in some container, nothing is changed
 * ```
 *
 * One after the other, in the order of the calls.
 */
export class Attachments {
  #host: VolumeHost
  #guest: BootedGuest | undefined
  #containers: ReadonlyMap<string, unknown> = new Map()
  #booted: readonly Volume[] = []
  readonly #attached: Attachment[] = []
  #made = 0
  #turn: Promise<unknown> = Promise.resolve()

  /** @param onFailure - as that of a {@link VolumeHost} */
  constructor(onFailure: VolumeHost["onFailure"]) {
    this.#host = { limiter: undefined, onFailure }
  }

  /** What containers see. */
  get volumes(): readonly Volume[] {
    return [...this.#booted, ...this.#attached.map(({ volume }) => volume)]
  }

  /** A guest that ends has to write back to a disk first. */
  get areWritten(): boolean {
    return this.volumes.some(volume => hasOwnFileSystem(volume) && !volume.readOnly)
  }

  /** The guest is up: attaches what it was to have from the start. @throws SandboxError as `attach` */
  async begin(
    guest: BootedGuest,
    { volumes, attached, diskLimiter }: Pick<SandboxConfig, "volumes" | "attached" | "diskLimiter">,
    containers: ReadonlyMap<string, unknown>,
  ): Promise<void> {
    this.#guest = guest
    this.#host = { ...this.#host, limiter: diskLimiter }
    this.#containers = containers
    this.#booted = volumes
    this.#made = volumes.length + attached.length
    guest.machine.exited.then(() => {
      this.#guest = undefined
      for (const { close } of this.#attached.splice(0)) close()
    })
    for (const volume of attached) await this.#attach(guest, volume)
  }

  /** @throws SandboxError `invalid-argument`, `hypervisor-unavailable`, `agent-failed` */
  attach(mount: SandboxMount): Promise<void> {
    return this.#inTurn(async guest => {
      const volume = checkMount(mount, this.#made)
      if (this.volumes.some(({ target }) => target === volume.target))
        throw new SandboxError("invalid-argument", `something is mounted at ${volume.target} already`)
      this.#made++
      await this.#attach(guest, volume)
    })
  }

  /** @throws SandboxError `not-found`, `in-use`, `agent-failed` */
  detach(target: string): Promise<void> {
    return this.#inTurn(async guest => {
      const one = this.#attached.find(({ volume }) => volume.target === target)
      if (!one) throw new SandboxError("not-found", `nothing was attached at ${target}`)
      await this.#hide(guest, one.volume)
      this.#attached.splice(this.#attached.indexOf(one), 1)
      await undoAll([
        () => one.close(),
        () => slotsOf(guest).unplug(one.device),
        () => guest.agent.unbindDevice(one.address),
        () => guest.agent.unmountVolume(one.volume.mountPoint),
      ])
    })
  }

  async #attach(guest: BootedGuest, volume: Volume): Promise<void> {
    const { agent } = guest
    const slots = slotsOf(guest)
    const { device, close } = await openVolume(volume, this.#host)
    const undo: (() => unknown)[] = [close]
    try {
      const address = slots.plug(device)
      undo.push(() => slots.unplug(device))
      await agent.bindDevice(address)
      undo.push(() => agent.unbindDevice(address))
      await agent.mountVolume(volumeStorage(volume, address))
      undo.push(() => agent.unmountVolume(volume.mountPoint))
      for (const id of this.#containers.keys()) {
        await agent.showVolume({ ...view(id, volume), source: volume.shared, readOnly: volume.readOnly })
        undo.push(() => agent.hideVolume(view(id, volume)))
      }
      this.#attached.push({ device, close, volume, address })
    } catch (error) {
      await undoAll(undo).catch(() => undefined)
      throw error
    }
  }

  /** In every container or in none. */
  async #hide({ agent }: BootedGuest, volume: Volume): Promise<void> {
    const hidden: string[] = []
    try {
      for (const id of this.#containers.keys()) {
        await agent.hideVolume(view(id, volume))
        hidden.push(id)
      }
    } catch (error) {
      const { shared: source, readOnly } = volume
      for (const id of hidden)
        await agent.showVolume({ ...view(id, volume), source, readOnly }).catch(() => undefined)
      const { message } = error as Error
      throw message.includes(IN_USE) ? new SandboxError("in-use", message, { cause: error }) : error
    }
  }

  #inTurn(work: (guest: BootedGuest) => Promise<void>): Promise<void> {
    const turn = this.#turn.then(async () => {
      if (!this.#guest) throw new SandboxError("stopped", "the sandbox is not running")
      try {
        await work(this.#guest)
      } catch (error) {
        throw fromGuestError(error)
      }
    })
    this.#turn = turn.catch(() => undefined)
    return turn
  }
}

/** In the guest, unlike a folder of the host. */
function hasOwnFileSystem({ type }: Volume): boolean {
  return type === "disk" || type === "vhost-user-blk"
}

function view(containerId: string, { target }: Volume) {
  return { containerId, target }
}

/** @throws SandboxError `hypervisor-unavailable` */
function slotsOf({ machine }: BootedGuest): DeviceSlots {
  if (machine.slots) return machine.slots
  const message =
    "this hypervisor cannot give a running sandbox a device, nor use one that another process serves: use kvm"
  throw new SandboxError("hypervisor-unavailable", message)
}

/** Last step first, each of them, whatever becomes of the others. @throws what the first one that failed threw */
async function undoAll(steps: readonly (() => unknown)[]): Promise<void> {
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
