/** Device type numbers. @see virtio 1.3, section 5 */
export const VIRTIO_ID = {
  net: 1,
  block: 2,
  console: 3,
  entropy: 4,
  balloon: 5,
  scsi: 8,
  "9p": 9,
  vsock: 19,
  mem: 24,
  fs: 26,
  pmem: 27,
} as const

/** Name of a device type in `VIRTIO_ID`. */
export type VirtioDeviceName = keyof typeof VIRTIO_ID
