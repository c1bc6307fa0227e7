// virtio network device: numbers of <linux/virtio_net.h>. @see virtio 1.3, section 5.1

/** Queue 0 receives, queue 1 sends. */
export const RECEIVE_QUEUE = 0
export const TRANSMIT_QUEUE = 1

export const VIRTIO_NET_F_MTU = 1n << 3n
export const VIRTIO_NET_F_MAC = 1n << 5n
export const VIRTIO_NET_F_MRG_RXBUF = 1n << 15n
export const VIRTIO_NET_F_STATUS = 1n << 16n

/** `status`: the link is up. */
export const VIRTIO_NET_S_LINK_UP = 1

/** struct virtio_net_hdr_v1, before every frame in both directions. */
export const NET_HEADER_SIZE = 12
/** Where `num_buffers` stands in it. */
export const NUM_BUFFERS_OFFSET = 10

/** struct virtio_net_config up to `mtu`: mac, status, max_virtqueue_pairs, mtu. */
export const CONFIG_SIZE = 12
export const CONFIG = { mac: 0, status: 6, mtu: 10 } as const

/** Ethernet header; a frame is this and the MTU at most. */
export const ETHERNET_HEADER_SIZE = 14
/** The smallest MTU that IPv4 allows. */
export const MIN_MTU = 68
export const MAX_MTU = 65_535
