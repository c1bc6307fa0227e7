// passt, for a guest whose addresses are GUEST and its gateway, which is the loopback interface of passt's own namespace.
import { chmodSync, mkdirSync } from "node:fs"
import { GUEST, inside } from "./namespaces.mjs"
import { startServer } from "./process.mjs"

export const GATEWAY = "10.9.0.1"
/** What passt takes at most. */
export const PASST_MTU = 65_520

/** A folder for passt's sockets: it makes them as the user that it becomes. */
export function passtFolder(folder) {
  const path = `${folder}/p`
  mkdirSync(path)
  chmodSync(folder, 0o711)
  chmodSync(path, 0o777)
  return path
}

/**
 * Starts passt in a namespace and waits until its socket is there.
 * @param {string[]} command the program, and what stands before it
 * @param {{ namespace: string, interface: string, socket: string, publish: string[] }} at `publish`: its -t and -u
 * @param {(work: () => unknown) => void} onEnd
 */
export async function startPasst(command, at, onEnd, ...more) {
  const args = [
    ...["--foreground", "-4", "--no-dhcp", "--no-dhcpv6", "--no-ra", "-i", at.interface, "-s", at.socket],
    ...["-a", GUEST, "-n", "24", "-g", GATEWAY, "-m", String(PASST_MTU), ...at.publish, ...more],
  ]
  await startServer(inside(at.namespace, ...command, ...args), at.socket, onEnd)
}
