/**
 * virtio-mmio register layout, version 2; names as in the kernel's uapi header, where the driver area is
 * AVAIL and the device area USED.
 * @see virtio 1.3, section 4.2.2, and linux/virtio_mmio.h
 */

/** Bytes of address space one device takes: the registers, and config space to the end of the page. */
export const VIRTIO_MMIO_WINDOW_SIZE = 0x1000

/** Read only: `VIRTIO_MMIO_MAGIC`. */
export const VIRTIO_MMIO_MAGIC_VALUE = 0x000
/** Read only: `VIRTIO_MMIO_VERSION_2`. */
export const VIRTIO_MMIO_VERSION = 0x004
/** Read only: device type, 0 for a slot without a device. */
export const VIRTIO_MMIO_DEVICE_ID = 0x008
/** Read only. */
export const VIRTIO_MMIO_VENDOR_ID = 0x00c
/** Read only: the 32 features offered that `VIRTIO_MMIO_DEVICE_FEATURES_SEL` selects. */
export const VIRTIO_MMIO_DEVICE_FEATURES = 0x010
/** Write only: 0 for feature bits 0 to 31, 1 for 32 to 63, and so on. */
export const VIRTIO_MMIO_DEVICE_FEATURES_SEL = 0x014
/** Write only: the 32 features accepted that `VIRTIO_MMIO_DRIVER_FEATURES_SEL` selects. */
export const VIRTIO_MMIO_DRIVER_FEATURES = 0x020
/** Write only. */
export const VIRTIO_MMIO_DRIVER_FEATURES_SEL = 0x024
/** Write only: the queue that the other QUEUE registers are about. */
export const VIRTIO_MMIO_QUEUE_SEL = 0x030
/** Read only: largest size of the selected queue, 0 when there is no such queue. */
export const VIRTIO_MMIO_QUEUE_NUM_MAX = 0x034
/** Write only: size of the selected queue. */
export const VIRTIO_MMIO_QUEUE_NUM = 0x038
/** Read, write: 1 while the selected queue is in use; 0 stops it. */
export const VIRTIO_MMIO_QUEUE_READY = 0x044
/** Write only: index of the queue to look at. The one register that belongs to an ioeventfd. */
export const VIRTIO_MMIO_QUEUE_NOTIFY = 0x050
/** Read only: `VIRTIO_MMIO_INT_*`. */
export const VIRTIO_MMIO_INTERRUPT_STATUS = 0x060
/** Write only: the bits of the interrupt status that the driver has seen. */
export const VIRTIO_MMIO_INTERRUPT_ACK = 0x064
/** Read, write: device status; 0 resets. */
export const VIRTIO_MMIO_STATUS = 0x070
/** Write only: descriptor table of the selected queue, lower and upper half. */
export const VIRTIO_MMIO_QUEUE_DESC_LOW = 0x080
export const VIRTIO_MMIO_QUEUE_DESC_HIGH = 0x084
/** Write only: driver area of the selected queue, lower and upper half. */
export const VIRTIO_MMIO_QUEUE_AVAIL_LOW = 0x090
export const VIRTIO_MMIO_QUEUE_AVAIL_HIGH = 0x094
/** Write only: device area of the selected queue, lower and upper half. */
export const VIRTIO_MMIO_QUEUE_USED_LOW = 0x0a0
export const VIRTIO_MMIO_QUEUE_USED_HIGH = 0x0a4
/** Write only: id of the shared memory region that the other SHM registers are about. */
export const VIRTIO_MMIO_SHM_SEL = 0x0ac
/** Read only: length of that region, all ones when there is none. */
export const VIRTIO_MMIO_SHM_LEN_LOW = 0x0b0
export const VIRTIO_MMIO_SHM_LEN_HIGH = 0x0b4
/** Read only: guest address of that region, all ones when there is none. */
export const VIRTIO_MMIO_SHM_BASE_LOW = 0x0b8
export const VIRTIO_MMIO_SHM_BASE_HIGH = 0x0bc
/** Read, write: 1 resets the selected queue, and is read back until that is done. */
export const VIRTIO_MMIO_QUEUE_RESET = 0x0c0
/** Read only: changes whenever config space may have. */
export const VIRTIO_MMIO_CONFIG_GENERATION = 0x0fc
/** Config space of the device begins here, accessed in any width. */
export const VIRTIO_MMIO_CONFIG = 0x100

/** "virt", little-endian. */
export const VIRTIO_MMIO_MAGIC = 0x7472_6976
/** The layout above; 1 was the legacy one. */
export const VIRTIO_MMIO_VERSION_2 = 2
/** Interrupt status: the device used a buffer of some queue. */
export const VIRTIO_MMIO_INT_VRING = 1
/** Interrupt status: config space or the device status changed. */
export const VIRTIO_MMIO_INT_CONFIG = 2
