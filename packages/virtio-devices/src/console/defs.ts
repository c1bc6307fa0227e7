/**
 * Console device: feature bits, queues, control messages. virtio 1.3, section 5.3.
 */

/** Config space has `cols` and `rows`. */
export const VIRTIO_CONSOLE_F_SIZE = 1n << 0n
/** Several ports and a pair of control queues. */
export const VIRTIO_CONSOLE_F_MULTIPORT = 1n << 1n

/** Bytes of config space: cols u16, rows u16, max_nr_ports u32, emerg_wr u32 (5.3.4). */
export const CONFIG_SIZE = 12
export const CONFIG_COLS_OFFSET = 0
export const CONFIG_ROWS_OFFSET = 2
export const CONFIG_MAX_PORTS_OFFSET = 4

/** Queue that the device reads control messages from, with MULTIPORT. */
export const CONTROL_TX_QUEUE = 3
/** Queue that the device writes control messages to, with MULTIPORT. */
export const CONTROL_RX_QUEUE = 2

/** Queue through which port `port` gets host input. */
export function portRxQueue(port: number): number {
  return port === 0 ? 0 : 2 + 2 * port
}

/** Queue through which port `port` sends guest output. */
export function portTxQueue(port: number): number {
  return portRxQueue(port) + 1
}

/** Bytes of a control message: id u32, event u16, value u16 (5.3.6.2). */
export const CONTROL_SIZE = 8
export const CONTROL_ID_OFFSET = 0
export const CONTROL_EVENT_OFFSET = 4
export const CONTROL_VALUE_OFFSET = 6

/** Driver: it is ready for ports (value 1) or failed (0). */
export const VIRTIO_CONSOLE_DEVICE_READY = 0
/** Device: there is a port. */
export const VIRTIO_CONSOLE_PORT_ADD = 1
/** Device: there is no such port any more. */
export const VIRTIO_CONSOLE_PORT_REMOVE = 2
/** Driver: it made the port (value 1) or failed to (0). */
export const VIRTIO_CONSOLE_PORT_READY = 3
/** Device: the port is a console. */
export const VIRTIO_CONSOLE_CONSOLE_PORT = 4
/** Device: new size of a console port; the size follows. */
export const VIRTIO_CONSOLE_RESIZE = 5
/** Either side opened (value 1) or closed (0) the port. */
export const VIRTIO_CONSOLE_PORT_OPEN = 6
/** Device: the port's name follows. */
export const VIRTIO_CONSOLE_PORT_NAME = 7
