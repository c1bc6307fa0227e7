import type { BootedGuest } from "../boot.js"
import { type OpenedVolume, openVolume, type VolumeHost } from "../container/volume-devices.js"
import { checkMount, type SandboxMount, type Volume, volumeStorage } from "../container/volumes.js"
import { SandboxError } from "../errors.js"
import type { SandboxConfig } from "../options.js"
import { plug, slotsOf, type Turns, undoAll } from "./turns.js"

/** How the agent ends what it says of a volume that a program uses: a path may have such words too, and more behind it. */
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
 */
export class Attachments {
  readonly #turns: Turns
  #host: VolumeHost
  #containers: ReadonlyMap<string, unknown> = new Map()
  #booted: readonly Volume[] = []
  readonly #attached: Attachment[] = []
  #made = 0

  /** @param onFailure - as that of a {@link VolumeHost} */
  constructor(turns: Turns, onFailure: VolumeHost["onFailure"]) {
    this.#turns = turns
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
    this.#host = { ...this.#host, limiter: diskLimiter }
    this.#containers = containers
    this.#booted = volumes
    this.#made = volumes.length + attached.length
    guest.machine.exited.then(() => {
      for (const { close } of this.#attached.splice(0)) close()
    })
    for (const volume of attached) await this.#attach(guest, volume)
  }

  /** @throws SandboxError `invalid-argument`, `hypervisor-unavailable`, `agent-failed` */
  attach(mount: SandboxMount): Promise<void> {
    return this.#turns.take(async guest => {
      const volume = checkMount(mount, this.#made)
      if (volume.dax)
        throw new SandboxError("invalid-argument", "a mount with dax has to be there when the sandbox starts")
      if (this.volumes.some(({ target }) => target === volume.target))
        throw new SandboxError("invalid-argument", `something is mounted at ${volume.target} already`)
      this.#made++
      await this.#attach(guest, volume)
    })
  }

  /** @throws SandboxError `not-found`, `in-use`, `agent-failed` */
  detach(target: string): Promise<void> {
    return this.#turns.take(async guest => {
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
    slotsOf(guest) // refused before anything is made
    const { device, close } = await openVolume(volume, this.#host)
    const undo: (() => unknown)[] = [close]
    try {
      const address = await plug(guest, device, undo)
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
      throw message.endsWith(IN_USE) ? new SandboxError("in-use", message, { cause: error }) : error
    }
  }
}

/** In the guest, unlike a folder of the host. */
function hasOwnFileSystem({ type }: Volume): boolean {
  return type === "disk" || type === "vhost-user-blk"
}

function view(containerId: string, { target }: Volume) {
  return { containerId, target }
}
