/**
 * virtio-fs: folders and files of the host in the guest.
 *
 * @packageDocumentation
 */
export { type FsDaxOptions, FsDevice, type FsDeviceOptions } from "./device.js"
export type { FsCacheMode } from "./fuse-server.js"
export type { SharedFolderOptions } from "./shared-folder.js"
