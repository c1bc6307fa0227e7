import { type ChildProcess, spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import { closeFd, setNonBlocking, setSendBuffer, socketPair } from "@ts-vmm/native"
import { NetDevice, type NetPort, randomMac } from "@ts-vmm/virtio-devices/net"
import { SocketPort } from "@ts-vmm/virtio-devices/net/socket"
import { SandboxError, type SandboxErrorCode } from "../errors.js"
import { FilteredPort } from "./filtered-port.js"
import type { SandboxNetwork } from "./guest-network.js"
import type { PublishedPort } from "./options.js"

/** The guest's side of the network, the same for every sandbox: each has one of its own. */
const IPV4 = { address: "10.0.2.15", prefixLength: 24, gateway: "10.0.2.2" } as const
/** An address of no global network (RFC 4193): what leaves has the host's. */
const IPV6 = { address: "fd74:732d:766d::15", prefixLength: 64, gateway: "fe80::1" } as const
/** Questions to it are answered by the host's own name servers. */
const NAME_SERVER = "10.0.2.3"
const MTU = 65_520

/** How long passt may take to start. */
const START_LIMIT_MS = 10_000
const MAX_WORDS = 2_000
/**
 * Room for frames on their way to the guest. What does not fit passt drops, and the default has room for three of the
 * longest: a download took ten times as long.
 */
const SEND_BUFFER_SIZE = 4 * 2 ** 20

/**
 * Starts passt for one guest. It ends with this process, however that ends, since its socket does.
 *
 * @param onEnd - called when it ends by itself
 * @throws SandboxError `hypervisor-unavailable` when passt is not installed; `invalid-argument` when it refuses, as it
 * does for a port that is taken
 */
export async function startPasst(
  ports: readonly Required<PublishedPort>[],
  onEnd: (error: Error) => void,
): Promise<SandboxNetwork> {
  const hasIpv6 = hostHasIpv6()
  let isReady = false
  const ended = (error: Error | undefined) => {
    // Before that its exit says more.
    if (isReady) onEnd(new Error(`the network ended: ${words() || (error?.message ?? "passt is gone")}`))
  }
  const { child, stream } = spawnPasst(passtArguments(ports, hasIpv6), ended)
  const gone = new Promise<void>(resolve => child.once("exit", () => resolve()))
  const words = collectWords(child)
  const mac = randomMac()
  try {
    await untilReady(child, stream, mac, words)
  } catch (error) {
    stream.close()
    throw error
  }
  isReady = true
  const families = hasIpv6 ? [IPV4, IPV6] : [IPV4]
  const addresses = families.map(({ address }) => address)
  const port = new FilteredPort(stream, { mac, addresses })
  return {
    device: new NetDevice(port, { mac, mtu: MTU }),
    guest: {
      addresses: families.map(({ address, prefixLength }, i) => ({
        family: i === 0 ? 4 : 6,
        address,
        prefixLength,
      })),
      gateways: families.map(({ gateway }, i) => ({ family: i === 0 ? 4 : 6, address: gateway })),
      nameServers: [NAME_SERVER],
      mtu: MTU,
    },
    close: () => {
      port.close()
      child.kill("SIGKILL")
      // Its ports can be taken again when it is gone, and not before.
      return gone
    },
  }
}

/** The process, and our end of the stream of frames. */
function spawnPasst(
  args: readonly string[],
  onEnd: (error: Error | undefined) => void,
): { child: ChildProcess; stream: SocketPort } {
  const [ours, theirs] = socketPair()
  try {
    const stream = new SocketPort(ours, { onEnd })
    try {
      setSendBuffer(theirs, SEND_BUFFER_SIZE)
      setNonBlocking(theirs, false)
      return { child: spawn("passt", args, { stdio: ["ignore", "pipe", "pipe", theirs] }), stream }
    } catch (error) {
      stream.close()
      throw error
    }
  } finally {
    closeFd(theirs)
  }
}

/** Whether a packet of this host to anywhere has a way out by IPv6. */
function hostHasIpv6(): boolean {
  try {
    return readFileSync("/proc/net/ipv6_route", "latin1").split("\n").some(isDefaultRoute6)
  } catch {
    return false
  }
}

/** A line of /proc/net/ipv6_route: destination and its prefix in hexadecimal first, the interface last. */
function isDefaultRoute6(line: string): boolean {
  return /^0{32} 00 /.test(line) && !/\slo$/.test(line)
}

function passtArguments(ports: readonly Required<PublishedPort>[], hasIpv6: boolean): string[] {
  const published = ports.flatMap(({ hostAddress, hostPort, guestPort, protocol }) => [
    protocol === "tcp" ? "-t" : "-u",
    `${hostAddress}/${hostPort}:${guestPort}`,
  ])
  const ipv6 = hasIpv6 ? ["-a", IPV6.address, "-g", IPV6.gateway] : ["-4"]
  return [
    ...["--foreground", "--quiet", "--fd", "3"],
    // The agent sets addresses and routes: others would come from these, and what is sent from them is not let out.
    ...["--no-dhcp", "--no-dhcpv6", "--no-ra"],
    // The guest's gateway would be the host's loopback otherwise, with all that listens there.
    "--no-map-gw",
    ...["-a", IPV4.address, "-n", String(IPV4.prefixLength), "-g", IPV4.gateway, "-m", String(MTU)],
    ...ipv6,
    ...["--dns-forward", NAME_SERVER, "-D", NAME_SERVER],
    ...published,
  ]
}

/** What it says, for an error: the last of it. */
function collectWords(child: ChildProcess): () => string {
  let said = ""
  for (const stream of [child.stdout, child.stderr])
    stream?.on("data", (bytes: Buffer) => {
      said = (said + bytes.toString("latin1")).slice(-MAX_WORDS)
    })
  // Without a system log it says so before every line.
  return () => said.replaceAll(/^(Failed to send \d+ bytes to syslog|Don't run as root.*)?\n/gm, "").trim()
}

/** It says nothing when it is ready, but answers; whatever is wrong with its arguments ends it. */
function untilReady(child: ChildProcess, port: NetPort, mac: string, words: () => string): Promise<void> {
  return new Promise((resolve, reject) => {
    const refuse = (code: SandboxErrorCode, message: string) => {
      clearTimeout(timer)
      reject(new SandboxError(code, message))
    }
    const timer = setTimeout(() => {
      child.kill("SIGKILL")
      refuse("hypervisor-unavailable", `passt did not start: ${words()}`)
    }, START_LIMIT_MS)
    child.once("error", (error: NodeJS.ErrnoException) => {
      const what = error.code === "ENOENT" ? "passt is not installed" : `passt: ${error.message}`
      refuse("hypervisor-unavailable", `${what}: install the package passt`)
    })
    child.once("close", () => refuse("invalid-argument", `passt refused: ${words()}`))
    const answered = () => {
      clearTimeout(timer)
      resolve()
      return true
    }
    port.attach(answered, () => undefined)
    port.send(arpRequest(mac))
  })
}

/** Who has the gateway's address? */
function arpRequest(mac: string): Buffer {
  const { address, gateway } = IPV4
  const own = mac.replaceAll(":", "")
  const ip = (text: string) => Buffer.from(text.split(".").map(Number)).toString("hex")
  const frame = `ffffffffffff${own}0806${"0001080006040001"}${own}${ip(address)}${"00".repeat(6)}${ip(gateway)}`
  return Buffer.from(frame, "hex")
}
