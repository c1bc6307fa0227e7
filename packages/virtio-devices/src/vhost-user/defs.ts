/**
 * Numbers of the vhost-user protocol, QEMU docs/interop/vhost-user.rst (version 1 of the protocol).
 * "Back end" requests were called "slave" requests before QEMU 7.2; the numbers are the same.
 */

/** Bytes of the header: request, flags, size, each a native u32. */
export const VHOST_USER_HEADER_SIZE = 12

/** Largest payload accepted. The largest legal one is a configuration space of 4 KiB and its 12-byte head. */
export const VHOST_USER_MAX_PAYLOAD = 4096 + 12

/** Configuration space ends here, whatever the device (the limit of every back end in use). */
export const VHOST_USER_CONFIG_LIMIT = 4096

/** Regions in one SET_MEM_TABLE; also the largest number of file descriptors in one message. */
export const VHOST_MEMORY_MAX_NREGIONS = 8

/** Regions that ADD_MEM_REG may build up one at a time. */
export const VHOST_USER_MAX_RAM_SLOTS = 32

// Header flags.
export const VHOST_USER_VERSION = 0x1
export const VHOST_USER_VERSION_MASK = 0x3
export const VHOST_USER_REPLY_MASK = 0x4
export const VHOST_USER_NEED_REPLY_MASK = 0x8

// "Front-end message types".
export const VHOST_USER_GET_FEATURES = 1
export const VHOST_USER_SET_FEATURES = 2
export const VHOST_USER_SET_OWNER = 3
export const VHOST_USER_RESET_OWNER = 4
export const VHOST_USER_SET_MEM_TABLE = 5
export const VHOST_USER_SET_LOG_BASE = 6
export const VHOST_USER_SET_LOG_FD = 7
export const VHOST_USER_SET_VRING_NUM = 8
export const VHOST_USER_SET_VRING_ADDR = 9
export const VHOST_USER_SET_VRING_BASE = 10
export const VHOST_USER_GET_VRING_BASE = 11
export const VHOST_USER_SET_VRING_KICK = 12
export const VHOST_USER_SET_VRING_CALL = 13
export const VHOST_USER_SET_VRING_ERR = 14
export const VHOST_USER_GET_PROTOCOL_FEATURES = 15
export const VHOST_USER_SET_PROTOCOL_FEATURES = 16
export const VHOST_USER_GET_QUEUE_NUM = 17
export const VHOST_USER_SET_VRING_ENABLE = 18
export const VHOST_USER_SET_BACKEND_REQ_FD = 21
export const VHOST_USER_GET_CONFIG = 24
export const VHOST_USER_SET_CONFIG = 25
export const VHOST_USER_GET_INFLIGHT_FD = 31
export const VHOST_USER_SET_INFLIGHT_FD = 32
export const VHOST_USER_RESET_DEVICE = 34
export const VHOST_USER_GET_MAX_MEM_SLOTS = 36
export const VHOST_USER_ADD_MEM_REG = 37
export const VHOST_USER_REM_MEM_REG = 38
export const VHOST_USER_SET_STATUS = 39
export const VHOST_USER_GET_STATUS = 40

// "Back-end message types".
export const VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2

// "Protocol features", bit numbers.
export const VHOST_USER_PROTOCOL_F_MQ = 0
export const VHOST_USER_PROTOCOL_F_LOG_SHMFD = 1
export const VHOST_USER_PROTOCOL_F_REPLY_ACK = 3
export const VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5
export const VHOST_USER_PROTOCOL_F_CONFIG = 9
export const VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = 12
export const VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13
export const VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS = 14
export const VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15
export const VHOST_USER_PROTOCOL_F_STATUS = 16

// Bits of the virtio feature word that belong to vhost, never to the driver.
/** Pages written are to be marked in the dirty log. */
export const VHOST_F_LOG_ALL = 26
/** GET/SET_PROTOCOL_FEATURES exist. */
export const VHOST_USER_F_PROTOCOL_FEATURES = 30

/** SET_VRING_KICK/CALL/ERR: the ring index, */
export const VHOST_USER_VRING_IDX_MASK = 0xff
/** and the flag that no descriptor is attached, so that the ring is polled. */
export const VHOST_USER_VRING_NOFD_MASK = 0x100

/** SET_VRING_ADDR flag: writes to the used ring are to be marked in the dirty log. */
export const VHOST_VRING_F_LOG = 0x1

/** Bytes that one bit of the dirty log stands for. */
export const VHOST_LOG_PAGE = 4096

/** GET/SET_CONFIG flags. */
export const VHOST_SET_CONFIG_TYPE_FRONTEND = 0
export const VHOST_SET_CONFIG_TYPE_MIGRATION = 1
