import { RequestError, type RequestErrorDetails } from "@ts-vmm/native"

/** What went wrong with a device that the kernel serves. Closed set; switch on it. */
export type VhostErrorCode =
  /** The node is not there, or not for this user. */
  | "unavailable"
  /** The kernel offers too little for a device. */
  | "unsuitable"
  /** The kernel refused a request; see `syscall` and `errnoName`. */
  | "ioctl"
  /** The driver's rings do not lie in guest RAM, or the kernel gave one up: it cannot be followed, or leads nowhere. */
  | "ring"
  /** It was used after `close`. */
  | "closed"

/** Facts that come with a {@link VhostError}. */
export type VhostErrorDetails = RequestErrorDetails

/**
 * Error of this module. Recognise it by `code`.
 *
 * @example
 * ```ts
 * import { VhostError, VhostVsockDevice } from "@ts-vmm/virtio-devices/vhost"
 *
 * try {
 *   VhostVsockDevice.open({ guestCid: 42 })
 * } catch (error) {
 *   if (error instanceof VhostError && error.errnoName === "EADDRINUSE") console.error("42 is taken")
 *   else throw error
 * }
 * ```
 */
export class VhostError extends RequestError<VhostErrorCode> {
  override readonly name = "VhostError"
}

const ABSENT = "load the kernel's module (modprobe vhost_net, or vhost_vsock)"
const PERMISSION = "the node needs read and write permission: add yourself to its group (usually kvm)"

/** By request and errno; `*` stands for every request without an entry of its own. */
const HINTS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  open: { ENOENT: ABSENT, ENODEV: ABSENT, ENXIO: ABSENT, EACCES: PERMISSION, EPERM: PERMISSION },
  VHOST_SET_OWNER: { EBUSY: "the fd has an owner already" },
  VHOST_SET_MEM_TABLE: {
    E2BIG: "guest RAM has more pieces than the kernel takes (max_mem_regions of the module vhost)",
  },
  VHOST_NET_SET_BACKEND: {
    EBADFD: "the tap device is gone",
    ENOTSOCK: "the fd is no tap device",
  },
  VHOST_VSOCK_SET_GUEST_CID: { EADDRINUSE: "another guest has this CID" },
  "*": { ENOTTY: "the request is unknown to this kernel", ENOMEM: "the kernel has no memory for it" },
}

/** What a person can do about a request that failed with an errno of this name, to be spread into the details. */
export function hintFor(syscall: string, errno: string): { hint?: string } {
  const hint = HINTS[syscall]?.[errno] ?? HINTS["*"]?.[errno]
  return hint === undefined ? {} : { hint }
}
