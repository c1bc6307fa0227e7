import { NetDevice, randomMac } from "@ts-vmm/virtio-devices/net"
import { openTap, type Tap, TapError, TapPort } from "@ts-vmm/virtio-devices/net/tap"
import { SandboxError } from "../errors.js"
import { FilteredPort } from "./filtered-port.js"
import type { SandboxNetwork } from "./guest-network.js"
import type { TapConfig } from "./options.js"

/**
 * Connects a guest with a tap device of the host, which has to be there. What the guest sends is checked against the
 * addresses that it was given; one that was given none may use any, since it finds its own.
 *
 * @param onEnd - called when the interface is deleted
 * @throws SandboxError `invalid-argument` when it cannot be opened
 */
export function startTap(config: TapConfig, onEnd: (error: Error) => void): SandboxNetwork {
  const tap = open(config)
  const { mtu = tap.mtu, macAddress: mac = randomMac(), addresses, gateways, nameServers } = config
  const own = addresses.map(({ address }) => address)
  const tapPort = new TapPort(tap, { onEnd })
  const port = own.length > 0 ? new FilteredPort(tapPort, { mac, addresses: own }) : tapPort
  return {
    device: new NetDevice(port, { mac, mtu }),
    guest: { addresses, gateways, nameServers, mtu },
    close: () => port.close(),
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
