import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import { BlockDevice, openFileBackend } from "@ts-vmm/virtio-devices/block"
import { FsDevice } from "@ts-vmm/virtio-devices/fs"
import type { Volume } from "../container/volumes.js"
import { SandboxError } from "../errors.js"

/** A device that serves a volume, and what has to be closed when it is gone. */
export interface AttachedDevice {
  readonly device: VirtioDevice
  close(): void
}

/** @throws SandboxError `invalid-argument` when the source cannot be opened, or its back end is not fit for use */
export async function openDevice(volume: Volume): Promise<AttachedDevice> {
  try {
    return await open(volume)
  } catch (cause) {
    const message = `the mount source ${volume.source} cannot be used: ${(cause as Error).message}`
    throw new SandboxError("invalid-argument", message, { cause })
  }
}

async function open({ type, source, tag, readOnly, locks, acl }: Volume): Promise<AttachedDevice> {
  if (type === "bind") {
    const device = new FsDevice(source, { tag, readOnly, locks, acl })
    return { device, close: () => device.close() }
  }
  if (type === "disk") {
    const disk = openFileBackend(source, { readOnly, followLinks: false })
    return { device: new BlockDevice(disk), close: () => disk.close() }
  }
  // Loaded when it is asked for: few sandboxes have such a device.
  const { VhostUserDevice } = await import("@ts-vmm/virtio-devices/vhost-user")
  const kind = type === "vhost-user-fs" ? "fs" : "blk"
  const device = await VhostUserDevice.connect({ kind, socketPath: source, tag })
  return { device, close: () => device.close() }
}
