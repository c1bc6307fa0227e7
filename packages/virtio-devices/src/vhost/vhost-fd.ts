import { openSync } from "node:fs"
import { closeFd, ioctl, SysError } from "@ts-vmm/native"
import { type Decoded, type Fields, struct } from "@ts-vmm/vm-memory/layout"
import type { SharedRegion } from "../device.js"
import * as defs from "./defs.js"
import { hintFor, VhostError } from "./errors.js"

/** How a request reaches the kernel: `ioctl` of `@ts-vmm/native`, or a stand-in of a test. */
export type IoctlCall = typeof ioctl

/** Where the parts of a split ring lie in this process. */
export interface VringAddresses {
  readonly desc: bigint
  readonly avail: bigint
  readonly used: bigint
}

/**
 * An open `/dev/vhost-net` or `/dev/vhost-vsock`, and the one object that owns it. A method is one ioctl of
 * `linux/vhost.h`; each throws {@link VhostError} `ioctl` when the kernel refuses, and `closed` after {@link close}.
 *
 * It knows nothing of virtio's handshake: {@link VhostNetDevice} and {@link VhostVsockDevice} do.
 *
 * @see linux/vhost.h
 *
 * @example
 * ```ts
 * import { VhostFd } from "@ts-vmm/virtio-devices/vhost"
 *
 * using vhost = VhostFd.open("/dev/vhost-net")
 * vhost.setOwner()
 * console.log(vhost.getFeatures().toString(16))
 * ```
 */
export class VhostFd implements Disposable {
  #fd: number
  readonly #ioctl: IoctlCall

  /**
   * @param fd - owned from here on
   * @param call - default: the kernel's
   */
  constructor(fd: number, call: IoctlCall = ioctl) {
    this.#fd = fd
    this.#ioctl = call
  }

  /** @throws VhostError `unavailable` */
  static open(node: string): VhostFd {
    try {
      return new VhostFd(openSync(node, "r+"))
    } catch (error) {
      const { errno = 0, code = "" } = error as NodeJS.ErrnoException
      throw new VhostError("unavailable", `cannot open ${node}: ${code}`, {
        errno: Math.abs(errno),
        syscall: "open",
        cause: error,
        ...hintFor("open", code),
      })
    }
  }

  /** True after {@link close}. */
  get closed(): boolean {
    return this.#fd === -1
  }

  /** What this kernel can do, as feature bits of virtio and of vhost itself. */
  getFeatures(): bigint {
    const features = new BigUint64Array(1)
    this.#call("VHOST_GET_FEATURES", features)
    return features[0] as bigint
  }

  /** Of {@link getFeatures} what is in use from here on. */
  setFeatures(features: bigint): void {
    this.#call("VHOST_SET_FEATURES", BigUint64Array.of(features))
  }

  /** The rings' memory is this process's. Comes before every other request but {@link getFeatures}. */
  setOwner(): void {
    this.#call("VHOST_SET_OWNER")
  }

  /** Guest RAM: where descriptors may point. Addresses and sizes are multiples of 4096. */
  setMemTable(regions: readonly SharedRegion[]): void {
    const header = struct(defs.VHOST_MEMORY)
    const row = struct(defs.VHOST_MEMORY_REGION)
    const table = new Uint8Array(header.span + regions.length * row.span)
    header.encode({ nregions: regions.length, padding: 0 }, table)
    for (const [index, { guestAddress, size, userAddress }] of regions.entries()) {
      const region = {
        guest_phys_addr: BigInt(guestAddress),
        memory_size: BigInt(size),
        userspace_addr: userAddress,
        flags_padding: 0n,
      }
      row.encode(region, table, header.span + index * row.span)
    }
    this.#call("VHOST_SET_MEM_TABLE", table)
  }

  /** Number of descriptors of ring `index`, a power of two. Not while it runs. */
  setVringNum(index: number, num: number): void {
    this.#callWith("VHOST_SET_VRING_NUM", defs.VHOST_VRING_STATE, { index, num })
  }

  /** Where ring `index` goes on: the available index. Not while it runs. */
  setVringBase(index: number, num: number): void {
    this.#callWith("VHOST_SET_VRING_BASE", defs.VHOST_VRING_STATE, { index, num })
  }

  /** Where ring `index` stopped. Waits until the kernel has done what it does with that ring. */
  getVringBase(index: number): number {
    return this.#callWith("VHOST_GET_VRING_BASE", defs.VHOST_VRING_STATE, { index, num: 0 }).num
  }

  /** Where ring `index` lies, in this process. */
  setVringAddr(index: number, { desc, avail, used }: VringAddresses): void {
    this.#callWith("VHOST_SET_VRING_ADDR", defs.VHOST_VRING_ADDR, {
      index,
      flags: 0,
      desc_user_addr: desc,
      used_user_addr: used,
      avail_user_addr: avail,
      log_guest_addr: 0n,
    })
  }

  /** eventfd by which the driver says that there are buffers; -1: none. It stays the caller's, as in the next two. */
  setVringKick(index: number, fd: number): void {
    this.#callWith("VHOST_SET_VRING_KICK", defs.VHOST_VRING_FILE, { index, fd })
  }

  /** eventfd by which the kernel says that buffers were used; -1: none. */
  setVringCall(index: number, fd: number): void {
    this.#callWith("VHOST_SET_VRING_CALL", defs.VHOST_VRING_FILE, { index, fd })
  }

  /** eventfd by which the kernel says that it gave up the ring; -1: none. */
  setVringErr(index: number, fd: number): void {
    this.#callWith("VHOST_SET_VRING_ERR", defs.VHOST_VRING_FILE, { index, fd })
  }

  /** Starts ring `index` of a network card on a tap device; -1 stops it, and waits for what is under way. */
  netSetBackend(index: number, fd: number): void {
    this.#callWith("VHOST_NET_SET_BACKEND", defs.VHOST_VRING_FILE, { index, fd })
  }

  /** By which the host reaches the guest, 3 to 2^32 - 2: one guest has it at a time. */
  vsockSetGuestCid(cid: number): void {
    this.#call("VHOST_VSOCK_SET_GUEST_CID", BigUint64Array.of(BigInt(cid)))
  }

  /** Starts both rings of a socket device, or stops them. */
  vsockSetRunning(isRunning: boolean): void {
    this.#call("VHOST_VSOCK_SET_RUNNING", Int32Array.of(Number(isRunning)))
  }

  /** The kernel lets the rings, the memory and all fds go. Idempotent. */
  close(): void {
    if (this.closed) return
    closeFd(this.#fd)
    this.#fd = -1
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #callWith<F extends Fields>(name: defs.VhostRequest, fields: F, value: Decoded<F>): Decoded<F> {
    const layout = struct(fields)
    const bytes = layout.toBytes(value)
    this.#call(name, bytes)
    return layout.decode(bytes)
  }

  #call(name: defs.VhostRequest, argument: ArrayBufferView | 0 = 0): void {
    if (this.closed) throw new VhostError("closed", `${name} on a closed fd`)
    try {
      this.#ioctl(this.#fd, defs.VHOST_REQUESTS[name], argument)
    } catch (error) {
      if (!(error instanceof SysError)) throw error
      const { errno, code } = error
      throw new VhostError("ioctl", `${name} failed with ${code}`, {
        errno,
        syscall: name,
        cause: error,
        ...hintFor(name, code),
      })
    }
  }
}
