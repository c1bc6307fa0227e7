/**
 * The virtio block device and the disks it can stand on.
 *
 * @see virtio 1.3, section 5.2
 * @packageDocumentation
 */
export {
  type BlockAccess,
  type BlockBackend,
  type DirectAccess,
  type EraseKind,
  ExtentList,
  ZERO_EXTENT,
} from "./backend.js"
export { type ConcatPart, concatBackend, MAX_PARTS } from "./concat-backend.js"
export type { BlockCounters } from "./counters.js"
export * from "./defs.js"
export { BlockDevice } from "./device.js"
export { BlockError, type BlockErrorCode } from "./errors.js"
export { type FileBackendOptions, openFileBackend } from "./file-backend.js"
export { type MemoryBackend, memoryBackend } from "./memory-backend.js"
export type { BlockDeviceOptions } from "./options.js"
export { createQcow2, type Qcow2CreateOptions } from "./qcow2/create.js"
export type { BackingFile } from "./qcow2/header.js"
export { openQcow2Backend, type Qcow2BackendOptions } from "./qcow2/qcow2-backend.js"
export type { RawFile } from "./raw-file.js"
