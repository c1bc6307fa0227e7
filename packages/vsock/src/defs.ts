/**
 * Numbers of the virtio socket device.
 *
 * @see virtio 1.3, section 5.10; linux/virtio_vsock.h; linux/vm_sockets.h
 */

/** Receive queue: device to driver (virtio 1.3, 5.10.2). */
export const VSOCK_RX_QUEUE = 0
/** Transmit queue: driver to device. */
export const VSOCK_TX_QUEUE = 1
/** Event queue: device to driver. */
export const VSOCK_EVENT_QUEUE = 2

/** Stream sockets are supported (virtio 1.3, 5.10.3). */
export const VIRTIO_VSOCK_F_STREAM = 1n << 0n

/** Size of `struct virtio_vsock_hdr` in bytes (5.10.6). */
export const VSOCK_HEADER_SIZE = 44
/** Largest payload of one packet, as Linux sends and accepts it (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`). */
export const VIRTIO_VSOCK_MAX_PKT_BUF_SIZE = 64 * 1024
/** Size of `struct virtio_vsock_event` (5.10.6.7). */
export const VSOCK_EVENT_SIZE = 4
/** All connections are gone and the guest CID may have changed. */
export const VIRTIO_VSOCK_EVENT_TRANSPORT_RESET = 0

/** `enum virtio_vsock_type`: stream sockets. */
export const VIRTIO_VSOCK_TYPE_STREAM = 1

/** `enum virtio_vsock_op` (5.10.6). */
export const VIRTIO_VSOCK_OP_REQUEST = 1
export const VIRTIO_VSOCK_OP_RESPONSE = 2
export const VIRTIO_VSOCK_OP_RST = 3
export const VIRTIO_VSOCK_OP_SHUTDOWN = 4
export const VIRTIO_VSOCK_OP_RW = 5
export const VIRTIO_VSOCK_OP_CREDIT_UPDATE = 6
export const VIRTIO_VSOCK_OP_CREDIT_REQUEST = 7

/** Flag of SHUTDOWN: the sender will receive no more. */
export const VIRTIO_VSOCK_SHUTDOWN_RCV = 1
/** Flag of SHUTDOWN: the sender will send no more. */
export const VIRTIO_VSOCK_SHUTDOWN_SEND = 2
/** Both flags. */
export const VIRTIO_VSOCK_SHUTDOWN_MASK = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND

/** Context id of the host (linux/vm_sockets.h). */
export const VMADDR_CID_HOST = 2
/** Smallest context id a guest may have; 0 and 1 are reserved, 2 is the host (5.10.4). */
export const VSOCK_FIRST_GUEST_CID = 3
/** "Any" port; never the port of a connection. */
export const VMADDR_PORT_ANY = 0xffff_ffff

/** Receive buffer a connection offers the guest: what Linux uses by default. */
export const DEFAULT_BUF_ALLOC = 256 * 1024
/** Connections a device carries unless told otherwise. */
export const DEFAULT_MAX_CONNECTIONS = 1024
/** Guest requests waiting for a host socket, and host programs in their handshake, unless told otherwise. */
export const DEFAULT_MAX_HALF_OPEN = 256
/** Streams a listener holds for its async iterator. */
export const DEFAULT_BACKLOG = 128
/** RSTs for packets that belong to no connection, held while the guest posts no receive buffer. */
export const MAX_QUEUED_RESETS = 256
/** How long `connect` waits unless told otherwise. */
export const DEFAULT_CONNECT_TIMEOUT_MS = 10_000
/** How long a closed connection waits for the guest's RST before it is forgotten. */
export const CLOSE_TIMEOUT_MS = 2_000
/** Host ports handed out to `connect` start here, clear of ports people choose. */
export const FIRST_EPHEMERAL_PORT = 0x4000_0000
