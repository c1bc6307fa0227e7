import type { AgentClient } from "@ts-vmm/guest"
import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import type { NetworkAddress } from "./address.js"

/** The interface as the guest's agent sets it up. */
export interface GuestNetwork {
  readonly addresses: readonly NetworkAddress[]
  /** Routers of the way out, one a family at most. */
  readonly gateways: readonly { readonly family: 4 | 6; readonly address: string }[]
  /** Other routes, in the order in which they are needed; without a gateway those of the interface itself. */
  readonly routes?: readonly GuestRoute[]
  readonly nameServers: readonly string[]
  readonly mtu: number
}

/** A route that is not the way out. */
export interface GuestRoute extends NetworkAddress {
  readonly gateway?: string
}

/** A started network: the device, and what the guest has to know. */
export interface SandboxNetwork {
  readonly device: VirtioDevice
  readonly guest: GuestNetwork
  /** What others gave it is given back: that may take time, and fail. */
  close(): void | Promise<void>
}

/** Calls are done in the order in which they are sent. @param device - the first network card of a machine is `eth0` */
export function configureNetwork(agent: AgentClient, guest: GuestNetwork, device = "eth0"): Promise<void>[] {
  const { addresses, gateways, routes = [], mtu } = guest
  return [
    agent.updateInterface({
      device,
      mtu: BigInt(mtu),
      IPAddresses: addresses.map(({ family, address, prefixLength }) => ({
        family: wireFamily(family),
        address,
        mask: String(prefixLength),
      })),
    }),
    agent.updateRoutes([
      ...routes.map(({ family, address, prefixLength, gateway = "" }) => ({
        ...{ device, gateway, family: wireFamily(family) },
        dest: `${address}/${prefixLength}`,
      })),
      ...gateways.map(({ family, address }) => ({
        device,
        gateway: address,
        family: wireFamily(family),
      })),
    ]),
  ]
}

/** The enum of the agent's protocol. */
function wireFamily(family: 4 | 6): number {
  return family === 4 ? 0 : 1
}
