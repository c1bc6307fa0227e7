import { dirname } from "node:path"
import type { LazyDiskPart } from "@ts-vmm/oci-image"
import type { RateLimiter, VirtioDevice } from "@ts-vmm/virtio-devices"
import {
  type BlockBackend,
  BlockDevice,
  type BlockDeviceOptions,
  concatBackend,
  openFileBackend,
} from "@ts-vmm/virtio-devices/block"
import { FsDevice } from "@ts-vmm/virtio-devices/fs"
import { PmemDevice } from "@ts-vmm/virtio-devices/pmem"
import type { ArrivingImage } from "../arriving-image.js"
import { SandboxError } from "../errors.js"
import type { OpenedImage } from "../images.js"
import { reportWriteFailure } from "../storage/write-failure.js"
import type { RootfsConfig } from "./options.js"
import type { SandboxRoot } from "./root.js"

/** What a root's disk calls itself: the guest's order of disks says nothing. */
export const ROOT_SERIAL = "tsvmm-root"
/** What the guest mounts a root's folder by. */
export const ROOT_TAG = "root"

/** What the guest finds its root by. */
export interface RootDevice {
  readonly device: VirtioDevice
  close(): void
}

/**
 * Opens what a sandbox's root lies on.
 *
 * @param onFailure - told once when the host could not write what the guest wrote
 * @param limiter - how fast a disk may be; not for folders
 * @throws SandboxError `invalid-argument` for a folder or disk that cannot be opened, or that somebody else writes to
 */
export function openRoot(
  root: SandboxRoot,
  onFailure: (error: SandboxError) => void,
  limiter?: RateLimiter,
): RootDevice {
  const limited = limiter ? { rateLimit: limiter } : {}
  if (root.kind === "image")
    return root.device === "pmem" ? memoryDevice(root) : diskDevice(imageDisk(root), limited)
  try {
    return root.kind === "folder" ? folderDevice(root) : hostDisk(root, onFailure, limited)
  } catch (error) {
    const message = `the root file system cannot be opened: ${(error as Error).message}`
    throw new SandboxError("invalid-argument", message, { cause: error })
  }
}

function folderDevice({ path, writable }: RootfsConfig): RootDevice {
  const device = new FsDevice(path, { tag: ROOT_TAG, readOnly: !writable })
  return { device, close: () => device.close() }
}

function hostDisk(
  { path, writable }: RootfsConfig,
  onFailure: (error: SandboxError) => void,
  limited: BlockDeviceOptions,
): RootDevice {
  const disk = openFileBackend(path, { readOnly: !writable, followLinks: false })
  return diskDevice(disk, { ...limited, onWriteError: reportWriteFailure(dirname(path), onFailure) })
}

function diskDevice(disk: BlockBackend, options: BlockDeviceOptions): RootDevice {
  return { device: new BlockDevice(disk, { serial: ROOT_SERIAL, ...options }), close: () => disk.close() }
}

/** The store's files do not change: what is mapped of them stays as it is. */
function memoryDevice({ image }: OpenedImage): RootDevice {
  const device = new PmemDevice(image.disk().parts)
  return { device, close: () => device.close() }
}

function imageDisk({ image, arriving }: OpenedImage): BlockBackend {
  const parts: readonly LazyDiskPart[] = image.disk().parts
  return concatBackend(
    parts.map(({ path, size, prepare }) => ({
      source: arriving && prepare ? waitingBackend(path, prepare, arriving) : path,
      size,
    })),
  )
}

/** A file whose content is on its way. */
function waitingBackend(
  path: string,
  prepare: NonNullable<LazyDiskPart["prepare"]>,
  arriving: ArrivingImage,
): BlockBackend {
  const file = openFileBackend(path, { readOnly: true })
  file.prepare = (offset, length) => {
    const coming = prepare(offset, length)
    return coming && arriving.watch(coming)
  }
  return file
}
