// virtio network device: numbers of <linux/virtio_net.h>. @see virtio 1.3, section 5.1

/** Pair n receives on queue 2n and sends on queue 2n + 1. */
export const RECEIVE_QUEUE = 0
export const TRANSMIT_QUEUE = 1
/** Most pairs that a device here has (the standard's own limit is 0x8000). */
export const MAX_QUEUE_PAIRS = 16

// Features (5.1.3).
/** The device takes frames whose checksum is not complete. */
export const VIRTIO_NET_F_CSUM = 1n << 0n
/** The driver takes them. */
export const VIRTIO_NET_F_GUEST_CSUM = 1n << 1n
export const VIRTIO_NET_F_CTRL_GUEST_OFFLOADS = 1n << 2n
export const VIRTIO_NET_F_MTU = 1n << 3n
export const VIRTIO_NET_F_MAC = 1n << 5n
export const VIRTIO_NET_F_GUEST_TSO4 = 1n << 7n
export const VIRTIO_NET_F_GUEST_TSO6 = 1n << 8n
export const VIRTIO_NET_F_GUEST_ECN = 1n << 9n
export const VIRTIO_NET_F_HOST_TSO4 = 1n << 11n
export const VIRTIO_NET_F_HOST_TSO6 = 1n << 12n
export const VIRTIO_NET_F_HOST_ECN = 1n << 13n
export const VIRTIO_NET_F_MRG_RXBUF = 1n << 15n
export const VIRTIO_NET_F_STATUS = 1n << 16n
export const VIRTIO_NET_F_CTRL_VQ = 1n << 17n
export const VIRTIO_NET_F_CTRL_RX = 1n << 18n
export const VIRTIO_NET_F_CTRL_VLAN = 1n << 19n
export const VIRTIO_NET_F_CTRL_RX_EXTRA = 1n << 20n
export const VIRTIO_NET_F_GUEST_ANNOUNCE = 1n << 21n
export const VIRTIO_NET_F_MQ = 1n << 22n
export const VIRTIO_NET_F_CTRL_MAC_ADDR = 1n << 23n
export const VIRTIO_NET_F_GUEST_USO4 = 1n << 54n
export const VIRTIO_NET_F_GUEST_USO6 = 1n << 55n
export const VIRTIO_NET_F_HOST_USO = 1n << 56n

/** What the driver takes of frames that are not finished, which it can switch while it runs (5.1.6.5.6). */
export const GUEST_OFFLOADS =
  VIRTIO_NET_F_GUEST_CSUM |
  VIRTIO_NET_F_GUEST_TSO4 |
  VIRTIO_NET_F_GUEST_TSO6 |
  VIRTIO_NET_F_GUEST_ECN |
  VIRTIO_NET_F_GUEST_USO4 |
  VIRTIO_NET_F_GUEST_USO6
/** The same of the device. */
export const HOST_OFFLOADS =
  VIRTIO_NET_F_CSUM |
  VIRTIO_NET_F_HOST_TSO4 |
  VIRTIO_NET_F_HOST_TSO6 |
  VIRTIO_NET_F_HOST_ECN |
  VIRTIO_NET_F_HOST_USO

/** `status` (5.1.4): the link is up; the driver should announce itself to the network. */
export const VIRTIO_NET_S_LINK_UP = 1
export const VIRTIO_NET_S_ANNOUNCE = 2

/** Bytes of a `struct virtio_net_hdr_v1`, before every frame in both directions (virtio 1.3, 5.1.6). */
export const NET_HEADER_SIZE = 12
export const HEADER = {
  flags: 0,
  gsoType: 1,
  headerLength: 2,
  gsoSize: 4,
  csumStart: 6,
  csumOffset: 8,
  numBuffers: 10,
} as const
export const VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
export const VIRTIO_NET_HDR_F_DATA_VALID = 2
export const VIRTIO_NET_HDR_GSO_TCPV4 = 1
export const VIRTIO_NET_HDR_GSO_TCPV6 = 4
export const VIRTIO_NET_HDR_GSO_UDP_L4 = 5
export const VIRTIO_NET_HDR_GSO_ECN = 0x80

/** struct virtio_net_config up to `mtu` (5.1.4): mac, status, max_virtqueue_pairs, mtu. */
export const CONFIG_SIZE = 12
export const CONFIG = { mac: 0, status: 6, maxVirtqueuePairs: 8, mtu: 10 } as const

/**
 * Bytes that are copied of a packet that is sent out of guest memory (`PacketSender`): its `struct virtio_net_hdr_v1`, and
 * all headers of the frame that are looked at.
 */
export const PACKET_HEAD_SIZE = 256

/** Ethernet header; a frame is this, a VLAN tag and the MTU at most. */
export const ETHERNET_HEADER_SIZE = 14
export const VLAN_TAG_SIZE = 4
export const ETHERTYPE_OFFSET = 12
export const ETHERTYPE_IPV4 = 0x0800
export const ETHERTYPE_IPV6 = 0x86dd
export const ETHERTYPE_VLAN = 0x8100
/** The smallest MTU that IPv4 allows. */
export const MIN_MTU = 68
export const MAX_MTU = 65_535
/** A frame that is yet to be cut up: the longest IP packet, in Ethernet, with a tag. */
export const MAX_FRAME_SIZE = 65_535 + ETHERNET_HEADER_SIZE + VLAN_TAG_SIZE

// Control queue (5.1.6.5): class and command before the data, one byte of answer behind it.
export const VIRTIO_NET_OK = 0
export const VIRTIO_NET_ERR = 1
export const VIRTIO_NET_CTRL_RX = 0
export const VIRTIO_NET_CTRL_MAC = 1
export const VIRTIO_NET_CTRL_VLAN = 2
export const VIRTIO_NET_CTRL_ANNOUNCE = 3
export const VIRTIO_NET_CTRL_MQ = 4
export const VIRTIO_NET_CTRL_GUEST_OFFLOADS = 5
export const VIRTIO_NET_CTRL_RX_PROMISC = 0
export const VIRTIO_NET_CTRL_RX_ALLMULTI = 1
export const VIRTIO_NET_CTRL_RX_ALLUNI = 2
export const VIRTIO_NET_CTRL_RX_NOMULTI = 3
export const VIRTIO_NET_CTRL_RX_NOUNI = 4
export const VIRTIO_NET_CTRL_RX_NOBCAST = 5
export const VIRTIO_NET_CTRL_MAC_TABLE_SET = 0
export const VIRTIO_NET_CTRL_MAC_ADDR_SET = 1
export const VIRTIO_NET_CTRL_VLAN_ADD = 0
export const VIRTIO_NET_CTRL_VLAN_DEL = 1
export const VIRTIO_NET_CTRL_ANNOUNCE_ACK = 0
export const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET = 0
export const VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET = 0
