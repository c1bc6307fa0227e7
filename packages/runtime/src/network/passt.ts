import { type ChildProcess, spawn } from "node:child_process"
import type { Duplex } from "node:stream"
import { NetDevice, randomMac, StreamPort } from "@ts-vmm/virtio-devices/net"
import { SandboxError, type SandboxErrorCode } from "../errors.js"
import { FilteredPort } from "./filtered-port.js"
import type { PublishedPort } from "./options.js"

/** The guest's side of the network, the same for every sandbox: each has one of its own. */
export const GUEST_NETWORK = {
  device: "eth0",
  address: "10.0.2.15",
  prefixLength: 24,
  gateway: "10.0.2.2",
  /** Questions to it are answered by the host's own name servers. */
  nameServer: "10.0.2.3",
  mtu: 65_520,
} as const

/** How long passt may take to start. */
const START_LIMIT_MS = 10_000
const MAX_WORDS = 2_000

/** A started network. */
export interface PasstNetwork {
  readonly device: NetDevice
  /** Ends the process. */
  close(): void
}

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
): Promise<PasstNetwork> {
  const child = spawn("passt", passtArguments(ports), {
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  })
  const words = collectWords(child)
  const socket = child.stdio[3] as Duplex
  socket.on("error", () => undefined) // its end is told by the port
  const mac = randomMac()
  await untilReady(child, socket, mac, words)
  let isClosed = false
  const ended = (error: Error | undefined) => {
    if (!isClosed) onEnd(new Error(`the network ended: ${words() || (error?.message ?? "passt is gone")}`))
  }
  const port = new FilteredPort(new StreamPort(socket, { onEnd: ended }), {
    mac,
    address: GUEST_NETWORK.address,
  })
  const device = new NetDevice(port, { mac, mtu: GUEST_NETWORK.mtu })
  return {
    device,
    close: () => {
      isClosed = true
      port.close()
      child.kill("SIGKILL")
    },
  }
}

function passtArguments(ports: readonly Required<PublishedPort>[]): string[] {
  const { address, prefixLength, gateway, nameServer, mtu } = GUEST_NETWORK
  const published = ports.flatMap(({ hostAddress, hostPort, guestPort, protocol }) => [
    protocol === "tcp" ? "-t" : "-u",
    `${hostAddress}/${hostPort}:${guestPort}`,
  ])
  return [
    ...["--foreground", "--quiet", "--fd", "3"],
    // The guest's gateway would be the host's loopback otherwise, with all that listens there.
    "--no-map-gw",
    ...["-4", "-a", address, "-n", String(prefixLength), "-g", gateway, "-m", String(mtu)],
    ...["--dns-forward", nameServer, "-D", nameServer],
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
function untilReady(child: ChildProcess, socket: Duplex, mac: string, words: () => string): Promise<void> {
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
    socket.once("data", (bytes: Buffer) => {
      clearTimeout(timer)
      socket.pause()
      socket.unshift(bytes) // maybe not all of the answer yet: the port goes on from here
      resolve()
    })
    socket.write(arpRequest(mac))
  })
}

/** Who has the gateway's address? With the length before it that the stream wants. */
function arpRequest(mac: string): Buffer {
  const { address, gateway } = GUEST_NETWORK
  const own = mac.replaceAll(":", "")
  const ip = (text: string) => Buffer.from(text.split(".").map(Number)).toString("hex")
  const frame = `ffffffffffff${own}0806${"0001080006040001"}${own}${ip(address)}${"00".repeat(6)}${ip(gateway)}`
  return Buffer.concat([Buffer.from([0, 0, 0, frame.length / 2]), Buffer.from(frame, "hex")])
}
