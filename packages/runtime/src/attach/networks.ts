import type { BootedGuest } from "../boot.js"
import { SandboxError } from "../errors.js"
import { configureNetwork, type SandboxNetwork } from "../network/guest-network.js"
import {
  checkNetwork,
  type GuestNetworkOptions,
  type NetworkConfig,
  type NetworkMode,
  type PublishedPort,
} from "../network/options.js"
import { startNetwork } from "../network/start.js"
import { plug, slotsOf, type Turns, undoAll } from "./turns.js"

/** A network for a sandbox that runs: what `network`, `guestNetwork` and `ports` are for one that starts. */
export interface NetworkAttachment extends GuestNetworkOptions {
  /** Not `cni:NAME`. */
  readonly network: Exclude<NetworkMode, "none">
  /** With passt only. */
  readonly ports?: readonly PublishedPort[]
}

/** What the guest has of it. */
export interface AttachedNetwork {
  /** Its name in the guest: `eth1`. */
  readonly device: string
  /** With their prefixes: `10.0.2.15/24`. */
  readonly addresses: readonly string[]
  /** In no container's /etc/resolv.conf: that file is the container's by now. */
  readonly nameServers: readonly string[]
}

interface Interface {
  readonly kind: NetworkConfig["kind"]
  readonly network: SandboxNetwork
  readonly address: number
}

/**
 * The networks that come to a running sandbox and go.
 *
 * ```
 *   attach:  start -> plug -> the guest's driver binds: the next free name -> addresses, routes
 *   detach:  the driver lets go -> unplug -> close
 * ```
 */
export class Networks {
  readonly #turns: Turns
  readonly #onFailure: (error: Error) => void
  /** By the guest's names; it gives each the lowest number that is free. */
  readonly #attached = new Map<string, Interface>()
  #booted: NetworkConfig["kind"] = "none"

  /** @param onFailure - told when a network ends by itself */
  constructor(turns: Turns, onFailure: (error: Error) => void) {
    this.#turns = turns
    this.#onFailure = onFailure
  }

  /** The guest is up, with the network that it booted with. */
  begin(guest: BootedGuest, booted: NetworkConfig): void {
    this.#booted = booted.kind
    guest.machine.exited.then(() => {
      for (const { network } of this.#attached.values()) network.close()
      this.#attached.clear()
    })
  }

  /** @throws SandboxError `invalid-argument`, `hypervisor-unavailable`, `agent-failed`, `stopped` */
  attach({ network: mode, ports = [], ...guestSide }: NetworkAttachment): Promise<AttachedNetwork> {
    return this.#turns.take(async guest => {
      const config = checkNetwork(mode, ports, guestSide)
      if (config.kind === "none") throw new SandboxError("invalid-argument", "none is no network to attach")
      if (config.kind === "cni")
        throw new SandboxError(
          "invalid-argument",
          "a network of CNI plugins is there from the start, or not at all",
        )
      if (config.kind === "passt" && this.#kinds().includes("passt"))
        throw new SandboxError(
          "invalid-argument",
          "the sandbox has passt already, and two would have one address",
        )
      const device = this.#nextName()
      slotsOf(guest) // refused before anything is made
      const network = await startNetwork(config, this.#onFailure)
      const undo: (() => unknown)[] = [() => network.close()]
      try {
        const address = await plug(guest, network.device, undo)
        await Promise.all(configureNetwork(guest.agent, network.guest, device))
        this.#attached.set(device, { kind: config.kind, network, address })
      } catch (error) {
        await undoAll(undo).catch(() => undefined)
        throw error
      }
      const { addresses, nameServers } = network.guest
      return { device, nameServers, addresses: addresses.map(one => `${one.address}/${one.prefixLength}`) }
    })
  }

  /** @throws SandboxError `not-found`, `agent-failed`, `stopped` */
  detach(device: string): Promise<void> {
    return this.#turns.take(async guest => {
      const one = this.#attached.get(device)
      if (!one) throw new SandboxError("not-found", `no network was attached as ${device}`)
      this.#attached.delete(device)
      await undoAll([
        () => one.network.close(),
        () => slotsOf(guest).unplug(one.network.device),
        () => guest.agent.unbindDevice(one.address),
      ])
    })
  }

  #kinds(): NetworkConfig["kind"][] {
    return [this.#booted, ...[...this.#attached.values()].map(({ kind }) => kind)]
  }

  #nextName(): string {
    let number = this.#booted === "none" ? 0 : 1
    while (this.#attached.has(`eth${number}`)) number++
    return `eth${number}`
  }
}
