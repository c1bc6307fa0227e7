import { closeSync } from "node:fs"
import { NetDevice, randomMac } from "@ts-vmm/virtio-devices/net"
import { openTap, type Tap, TapError, TapPort } from "@ts-vmm/virtio-devices/net/tap"
import { VhostError, VhostNetDevice, type VhostNetDeviceOptions } from "@ts-vmm/virtio-devices/vhost"
import { SandboxError } from "../errors.js"
import { FilteredPort } from "./filtered-port.js"
import type { GuestNetwork, SandboxNetwork } from "./guest-network.js"
import type { TapConfig } from "./options.js"

/**
 * Connects a guest with a tap device of the host, which has to be there. What the guest sends is checked against the
 * addresses that it was given; one that was given none may use any, since it finds its own. With `vhost` the host's
 * kernel moves the frames, and nothing is checked.
 *
 * @param onEnd - called when the interface is deleted; not with `vhost`
 * @throws SandboxError `invalid-argument` when it cannot be opened; `hypervisor-unavailable` where there is no
 *   `/dev/vhost-net` for this user
 */
export function startTap(config: TapConfig, onEnd: (error: Error) => void): SandboxNetwork {
  const tap = open(config)
  const { mtu = tap.mtu, macAddress: mac = randomMac(), addresses, gateways, nameServers } = config
  const guest = { addresses, gateways, nameServers, mtu }
  if (config.vhost) {
    const device = openKernelCard(tap, { mac, mtu })
    return { device, guest, close: () => device.close() }
  }
  return connectTap(tap, mac, guest, onEnd)
}

/** The guest's end of an open tap device, which is the network's from here on. */
export function connectTap(
  tap: Tap,
  mac: string,
  guest: GuestNetwork,
  onEnd: (error: Error) => void,
): SandboxNetwork {
  const own = guest.addresses.map(({ address }) => address)
  const tapPort = new TapPort(tap, { onEnd })
  const port = own.length > 0 ? new FilteredPort(tapPort, { mac, addresses: own }) : tapPort
  return { device: new NetDevice(port, { mac, mtu: guest.mtu }), guest, close: () => port.close() }
}

function openKernelCard(tap: Tap, options: VhostNetDeviceOptions): VhostNetDevice {
  try {
    return VhostNetDevice.open(tap, options)
  } catch (error) {
    for (const fd of tap.fds) closeSync(fd)
    if (!(error instanceof VhostError)) throw error
    throw new SandboxError("hypervisor-unavailable", `vhost: ${error.message}`, { cause: error })
  }
}

function open({ name, queuePairs }: TapConfig): Tap {
  try {
    return openTap({ name, queuePairs })
  } catch (error) {
    if (!(error instanceof TapError)) throw error
    throw new SandboxError("invalid-argument", `--network tap:${name}: ${error.message}`, { cause: error })
  }
}
