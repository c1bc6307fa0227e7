// Network namespaces for a benchmark: one with the tap device and the host's end of a veth pair, one with its other end.
import { execFileSync } from "node:child_process"
import { existsSync } from "node:fs"
import { Skip } from "./harness.mjs"

const ip = (...args) => execFileSync("ip", args, { stdio: "pipe" })

/** Where things are: the tap device's guest, and the far end of the veth pair. */
export const GUEST = "10.9.0.2"
export const FAR = "10.8.0.2"
export const TAP = "tap0"
/** The veth pair. */
export const NEAR_END = "veth0"
export const FAR_END = "veth1"

/** One more tap device: one program has it open at a time. */
export function addTap(namespace, name) {
  ip("-n", namespace, "tuntap", "add", name, "mode", "tap")
  ip("-n", namespace, "link", "set", name, "up")
}

/** A command line inside of a namespace. */
export const inside = (namespace, ...commandLine) => ["ip", "netns", "exec", namespace, ...commandLine]

/**
 * @param {(work: () => unknown) => void} onEnd
 * @param {string} [mark] tells them from others of this bench
 * @returns {{ near: string, far: string }} names of the two namespaces
 */
export function makeNamespaces(onEnd, mark = "") {
  if (process.getuid() !== 0) throw new Skip("namespaces and tap devices need root")
  if (!existsSync("/dev/net/tun")) throw new Skip("there is no /dev/net/tun")
  const [near, far] = ["near", "far"].map(name => `tsvmm-bench-${name}${mark}-${process.pid}`)
  for (const namespace of [near, far]) {
    ip("netns", "add", namespace)
    onEnd(() => ip("netns", "del", namespace))
    ip("-n", namespace, "link", "set", "lo", "up")
  }
  addTap(near, TAP)
  ip("-n", near, "addr", "add", "10.9.0.1/24", "dev", TAP)
  ip("-n", near, "link", "add", NEAR_END, "type", "veth", "peer", "name", FAR_END, "netns", far)
  ip("-n", near, "addr", "add", "10.8.0.1/24", "dev", NEAR_END)
  ip("-n", near, "link", "set", NEAR_END, "up")
  ip("-n", far, "addr", "add", `${FAR}/24`, "dev", FAR_END)
  ip("-n", far, "link", "set", FAR_END, "up")
  return { near, far }
}
