// Numbers and structures of <linux/vhost.h> and <linux/vhost_types.h>; a test holds them against a C compiler.
import { i32, u32, u64 } from "@ts-vmm/vm-memory/layout"

export const VHOST_NET_NODE = "/dev/vhost-net"
export const VHOST_VSOCK_NODE = "/dev/vhost-vsock"

export const VHOST_REQUESTS = {
  VHOST_GET_FEATURES: 0x8008af00,
  VHOST_SET_FEATURES: 0x4008af00,
  VHOST_SET_OWNER: 0x0000af01,
  VHOST_SET_MEM_TABLE: 0x4008af03,
  VHOST_SET_VRING_NUM: 0x4008af10,
  VHOST_SET_VRING_ADDR: 0x4028af11,
  VHOST_SET_VRING_BASE: 0x4008af12,
  VHOST_GET_VRING_BASE: 0xc008af12,
  VHOST_SET_VRING_KICK: 0x4008af20,
  VHOST_SET_VRING_CALL: 0x4008af21,
  VHOST_SET_VRING_ERR: 0x4008af22,
  VHOST_NET_SET_BACKEND: 0x4008af30,
  VHOST_VSOCK_SET_GUEST_CID: 0x4008af60,
  VHOST_VSOCK_SET_RUNNING: 0x4004af61,
} as const

/** Name of a request in `VHOST_REQUESTS`. */
export type VhostRequest = keyof typeof VHOST_REQUESTS

/** In place of an fd: none from here on. */
export const VHOST_FILE_UNBIND = -1

// Fields of the structures, in the order in which they lie.
export const VHOST_VRING_STATE = { index: u32(), num: u32() } as const
export const VHOST_VRING_FILE = { index: u32(), fd: i32() } as const
export const VHOST_VRING_ADDR = {
  index: u32(),
  flags: u32(),
  desc_user_addr: u64(),
  used_user_addr: u64(),
  avail_user_addr: u64(),
  log_guest_addr: u64(),
} as const
/** What `struct vhost_memory` begins with; its regions follow. */
export const VHOST_MEMORY = { nregions: u32(), padding: u32() } as const
export const VHOST_MEMORY_REGION = {
  guest_phys_addr: u64(),
  memory_size: u64(),
  userspace_addr: u64(),
  flags_padding: u64(),
} as const

/** Sockets that keep the bounds of messages (virtio 1.3, 5.10.3). */
export const VIRTIO_VSOCK_F_SEQPACKET = 1n << 1n
/** struct virtio_vsock_config (5.10.4): guest_cid, 64 bits. */
export const VSOCK_CONFIG_SIZE = 8
/** Smaller ones are the hypervisor's, the loopback's and the host's (5.10.4). */
export const MIN_GUEST_CID = 3
/** 2^32 - 1 stands for any. */
export const MAX_GUEST_CID = 0xffff_fffe
