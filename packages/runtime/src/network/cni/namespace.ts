import { closeSync, existsSync } from "node:fs"
import { openTap, type Tap, TapError } from "@ts-vmm/virtio-devices/net/tap"
import { SandboxError } from "../../errors.js"
import { iproute } from "./iproute.js"

/** What a virtio network card can say. */
const MIN_MTU = 68
const MAX_MTU = 65_535

/** What an interface in a namespace is like. */
export interface Link {
  /** As `02:00:00:00:00:01`. */
  readonly mac: string
  readonly mtu: number
}

/** The network namespace of one sandbox, with a name that `ip netns` knows. */
export class SandboxNamespace {
  readonly name: string
  /** What plugins are told. */
  readonly path: string
  readonly #tapName: string

  /** @param sandboxId - 12 characters: with what stands before them the longest name of an interface */
  constructor(sandboxId: string) {
    this.name = `tsvmm-${sandboxId}`
    this.path = `/run/netns/${this.name}`
    this.#tapName = `tsv${sandboxId}`
  }

  /** @throws SandboxError `network-failed` */
  async create(): Promise<void> {
    await iproute("ip", ["netns", "add", this.name])
  }

  /** With all that is in it. One that is not there is no error. @throws SandboxError `network-failed` */
  async remove(): Promise<void> {
    if (existsSync(this.path)) await iproute("ip", ["netns", "del", this.name])
  }

  /** @throws SandboxError `network-failed` */
  async link(ifName: string): Promise<Link> {
    const text = await iproute("ip", ["-n", this.name, "-j", "link", "show", "dev", ifName])
    const [{ address: mac = "", mtu = 0 } = {}] = JSON.parse(text) as { address?: string; mtu?: number }[]
    if (/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/.test(mac) && mtu >= MIN_MTU && mtu <= MAX_MTU)
      return { mac, mtu }
    throw new SandboxError(
      "network-failed",
      `${ifName} is no interface for a guest: ${mac || "no MAC address"}, MTU ${mtu}`,
    )
  }

  /**
   * Makes a tap device in the namespace and ties it to an interface there: what arrives at one leaves by the other. It goes
   * when its fd is closed, however that comes.
   *
   * It is made here and moved, since that needs no thread of ours in the other namespace; its fd does not mind.
   *
   * @throws SandboxError `network-failed`
   */
  async tie(ifName: string, mtu: number): Promise<Tap> {
    const tap = this.#openTap()
    try {
      await iproute("ip", ["link", "set", "dev", tap.name, "netns", this.name])
      await iproute("ip", ["-n", this.name, "link", "set", "dev", tap.name, "mtu", String(mtu), "up"])
      await iproute(
        "tc",
        ["-n", this.name, "-batch", "-"],
        [...redirect(ifName, tap.name), ...redirect(tap.name, ifName)],
      )
      return { ...tap, mtu }
    } catch (error) {
      for (const fd of tap.fds) closeSync(fd)
      throw error
    }
  }

  #openTap(): Tap {
    try {
      return openTap({ name: this.#tapName, create: true })
    } catch (error) {
      if (!(error instanceof TapError)) throw error
      throw new SandboxError("network-failed", error.message, { cause: error })
    }
  }
}

/**
 * All frames, of whatever protocol. u32 with a mask of nothing and not matchall, which means the same: kernels that have the
 * one may lack the other, and u32 is the older.
 */
function redirect(from: string, to: string): string[] {
  return [
    `qdisc add dev ${from} ingress`,
    `filter add dev ${from} parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev ${to}`,
  ]
}
