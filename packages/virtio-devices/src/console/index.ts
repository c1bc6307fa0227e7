export { VIRTIO_CONSOLE_F_MULTIPORT, VIRTIO_CONSOLE_F_SIZE } from "./defs.js"
export { ConsoleDevice, type ConsoleOptions, MAX_PORTS } from "./device.js"
export { escapeConsoleText } from "./escape.js"
export { ConsolePort, type ConsolePortOptions, type ConsoleSink, type TerminalSize } from "./port.js"
