import { closeSync, constants as fs, openSync } from "node:fs"
import { ioctl } from "@ts-vmm/native"
import * as net from "../defs.js"
import * as defs from "./defs.js"
import { TapError, type TapErrorCode } from "./errors.js"
import { interfaceRequest, isInterface, mtuOf, nameOf } from "./interface.js"

/** What {@link openTap} opens. */
export interface TapOptions {
  /** Name of the interface in this process's network namespace, at most 15 bytes: `tap0`. */
  readonly name: string
  /** 1 to 16. More than one needs an interface made for several (`ip tuntap add … multi_queue`). Default 1. */
  readonly queuePairs?: number
  /** Make it when it is not there; it goes when it is closed. Needs CAP_NET_ADMIN. Default false. */
  readonly create?: boolean
}

/** An open tap device; close its fds, or give it to a `TapPort`. */
export interface Tap {
  readonly name: string
  /** One a queue pair, non-blocking. Each frame has a `struct virtio_net_hdr_v1` before it. */
  readonly fds: readonly number[]
  /** Of the interface, as it was when it was opened. */
  readonly mtu: number
  /** What the kernel does of checksums and segmentation, as feature bits of virtio-net. */
  readonly offloads: bigint
}

const BASE_OFFLOADS =
  net.VIRTIO_NET_F_CSUM |
  net.VIRTIO_NET_F_HOST_TSO4 |
  net.VIRTIO_NET_F_HOST_TSO6 |
  net.VIRTIO_NET_F_HOST_ECN |
  net.VIRTIO_NET_F_GUEST_CSUM |
  net.VIRTIO_NET_F_GUEST_TSO4 |
  net.VIRTIO_NET_F_GUEST_TSO6 |
  net.VIRTIO_NET_F_GUEST_ECN
/** Linux 6.2 and later. */
const USO_OFFLOADS = net.VIRTIO_NET_F_HOST_USO | net.VIRTIO_NET_F_GUEST_USO4 | net.VIRTIO_NET_F_GUEST_USO6

/**
 * Opens a tap device, with virtio-net headers and all offloads that the kernel has.
 *
 * @throws TapError `not-found`, `not-permitted`, `busy`, `not-a-tap`, `refused`
 * @throws RangeError for a name or number of queues that cannot be
 * @see Documentation/networking/tuntap.rst of Linux
 *
 * @example
 * ```ts
 * const tap = openTap({ name: "tap0" })   // made with: ip tuntap add tap0 mode tap user $USER
 * const device = new NetDevice(new TapPort(tap), { mtu: tap.mtu })
 * ```
 */
export function openTap(options: TapOptions): Tap {
  const { name, queuePairs = 1, create = false } = options
  if (!isName(name)) throw new RangeError(`"${name}" is no name of an interface`)
  if (!(Number.isInteger(queuePairs) && queuePairs >= 1 && queuePairs <= net.MAX_QUEUE_PAIRS))
    throw new RangeError(`a tap device has 1 to ${net.MAX_QUEUE_PAIRS} queue pairs, not ${queuePairs}`)
  if (!create && !isInterface(name)) throw new TapError("not-found", `there is no interface "${name}"`)
  const fds: number[] = []
  try {
    for (let pair = 0; pair < queuePairs; pair++) fds.push(openQueue(name, queuePairs > 1))
    const offloads = BASE_OFFLOADS | (hasUso(fds[0] as number) ? USO_OFFLOADS : 0n)
    for (const fd of fds) setOffloads(fd, 0n)
    return { name, fds, mtu: Math.min(mtuOf(name), net.MAX_MTU), offloads }
  } catch (error) {
    for (const fd of fds) closeSync(fd)
    throw error instanceof TapError ? error : toTapError(name, error)
  }
}

/**
 * The kernel leaves undone what `features` (`VIRTIO_NET_F_GUEST_*` bits) say that the guest takes.
 *
 * @param call - how the kernel is asked
 * @throws SysError
 */
export function setOffloads(fd: number, features: bigint, call: typeof ioctl = ioctl): void {
  const has = (feature: bigint) => (features & feature) === feature
  const cut = has(net.VIRTIO_NET_F_GUEST_TSO4) || has(net.VIRTIO_NET_F_GUEST_TSO6)
  let offloads = 0
  if (has(net.VIRTIO_NET_F_GUEST_CSUM)) {
    offloads |= defs.TUN_F_CSUM
    if (has(net.VIRTIO_NET_F_GUEST_TSO4)) offloads |= defs.TUN_F_TSO4
    if (has(net.VIRTIO_NET_F_GUEST_TSO6)) offloads |= defs.TUN_F_TSO6
    if (cut && has(net.VIRTIO_NET_F_GUEST_ECN)) offloads |= defs.TUN_F_TSO_ECN
    // The kernel knows them together only.
    if (has(net.VIRTIO_NET_F_GUEST_USO4 | net.VIRTIO_NET_F_GUEST_USO6))
      offloads |= defs.TUN_F_USO4 | defs.TUN_F_USO6
  }
  call(fd, defs.TUNSETOFFLOAD, offloads)
}

/** Takes one queue of several out of use, or back into it. @throws SysError */
export function setQueueAttached(fd: number, isAttached: boolean): void {
  const flags = isAttached ? defs.IFF_ATTACH_QUEUE : defs.IFF_DETACH_QUEUE
  ioctl(fd, defs.TUNSETQUEUE, interfaceRequest("", flags))
}

function openQueue(name: string, isOneOfSeveral: boolean): number {
  const fd = openSync(defs.TUN_DEVICE, fs.O_RDWR | fs.O_NONBLOCK)
  try {
    attachQueue(fd, name, isOneOfSeveral)
    ioctl(fd, defs.TUNSETVNETHDRSZ, Int32Array.of(net.NET_HEADER_SIZE))
    return fd
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/** An interface made for several queues wants to be told so by who opens only one. */
function attachQueue(fd: number, name: string, isOneOfSeveral: boolean): void {
  const flags = defs.IFF_TAP | defs.IFF_NO_PI | defs.IFF_VNET_HDR
  const ways = isOneOfSeveral ? [defs.IFF_MULTI_QUEUE] : [0, defs.IFF_MULTI_QUEUE]
  for (const [index, way] of ways.entries()) {
    try {
      const request = interfaceRequest(name, flags | way)
      ioctl(fd, defs.TUNSETIFF, request)
      if (nameOf(request) !== name)
        throw new TapError("refused", `the kernel made ${nameOf(request)}, not ${name}`)
      return
    } catch (error) {
      if (index === ways.length - 1 || (error as NodeJS.ErrnoException).code !== "EINVAL") throw error
    }
  }
}

function hasUso(fd: number): boolean {
  try {
    setOffloads(fd, net.VIRTIO_NET_F_GUEST_CSUM | USO_OFFLOADS)
    return true
  } catch {
    return false
  }
}

/** Not a pattern for the kernel to fill in (`tap%d`), and nothing that a path would take for something else. */
function isName(name: string): boolean {
  return /^[\w.-]{1,15}$/.test(name) && !/^\.{1,2}$/.test(name)
}

const CODES: Readonly<Record<string, readonly [TapErrorCode, string]>> = {
  ENOENT: ["not-found", "/dev/net/tun is missing: load the module tun"],
  ENODEV: ["not-found", "the interface is gone"],
  EPERM: [
    "not-permitted",
    "it belongs to somebody else: make it with `ip tuntap add NAME mode tap user USER`",
  ],
  EACCES: ["not-permitted", "/dev/net/tun cannot be opened by this user"],
  EBUSY: ["busy", "another program has it open"],
  EINVAL: ["not-a-tap", "it is no tap device, or made for another number of queues"],
  E2BIG: ["refused", "it has too many queues open"],
}

function toTapError(name: string, cause: unknown): TapError {
  const errno = (cause as NodeJS.ErrnoException).code ?? ""
  const [code, why] = CODES[errno] ?? ["refused", (cause as Error).message]
  return new TapError(code, `tap device ${name}: ${why}`, { cause })
}
