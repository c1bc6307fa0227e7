// Network namespaces for a benchmark: one with the tap device and the host's end of a veth pair, one with its other end.
import { execFileSync } from "node:child_process"
import { existsSync } from "node:fs"
import { Skip } from "./harness.mjs"

const ip = (...args) => execFileSync("ip", args, { stdio: "pipe" })

/** Where things are: the tap device's guest, and the far end of the veth pair. */
export const GUEST = "10.9.0.2"
export const FAR = "10.8.0.2"
export const TAP = "tap0"

/** A command line inside of a namespace. */
export const inside = (namespace, ...commandLine) => ["ip", "netns", "exec", namespace, ...commandLine]

/**
 * @param {(work: () => unknown) => void} onEnd
 * @returns {{ near: string, far: string }} names of the two namespaces
 */
export function makeNamespaces(onEnd) {
  if (process.getuid() !== 0) throw new Skip("namespaces and tap devices need root")
  if (!existsSync("/dev/net/tun")) throw new Skip("there is no /dev/net/tun")
  const [near, far] = ["near", "far"].map(name => `tsvmm-bench-${name}-${process.pid}`)
  for (const namespace of [near, far]) {
    ip("netns", "add", namespace)
    onEnd(() => ip("netns", "del", namespace))
    ip("-n", namespace, "link", "set", "lo", "up")
  }
  ip("-n", near, "tuntap", "add", TAP, "mode", "tap")
  ip("-n", near, "addr", "add", "10.9.0.1/24", "dev", TAP)
  ip("-n", near, "link", "set", TAP, "up")
  ip("-n", near, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1", "netns", far)
  ip("-n", near, "addr", "add", "10.8.0.1/24", "dev", "veth0")
  ip("-n", near, "link", "set", "veth0", "up")
  ip("-n", far, "addr", "add", `${FAR}/24`, "dev", "veth1")
  ip("-n", far, "link", "set", "veth1", "up")
  return { near, far }
}
