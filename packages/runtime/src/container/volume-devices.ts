import { dirname } from "node:path"
import type { RateLimiter, VirtioDevice } from "@ts-vmm/virtio-devices"
import {
  type BlockBackend,
  BlockDevice,
  openFileBackend,
  openQcow2Backend,
} from "@ts-vmm/virtio-devices/block"
import { FsDevice } from "@ts-vmm/virtio-devices/fs"
import { SandboxError } from "../errors.js"
import { reportWriteFailure } from "../storage/write-failure.js"
import type { Volume } from "./volumes.js"

const MIB = 2 ** 20

/** A device that serves a volume, and what has to be closed when it is gone. */
export interface OpenedVolume {
  readonly device: VirtioDevice
  close(): void
}

/** What the volumes of a sandbox share. */
export interface VolumeHost {
  readonly limiter: RateLimiter | undefined
  /** Told once a disk when the host could not write what the guest wrote. */
  onFailure(error: SandboxError): void
}

/**
 * Opens volumes, and locks those that are disks until they are closed: all of them or none.
 *
 * @throws SandboxError `invalid-argument` for one that cannot be opened, or that somebody else has
 */
export async function openVolumes(volumes: readonly Volume[], host: VolumeHost): Promise<OpenedVolume[]> {
  const opened: OpenedVolume[] = []
  try {
    for (const volume of volumes) opened.push(await openVolume(volume, host))
    return opened
  } catch (error) {
    for (const { close } of opened) close()
    throw error
  }
}

/** @throws SandboxError as {@link openVolumes}, or when the back end is not fit for use */
export async function openVolume(volume: Volume, host: VolumeHost): Promise<OpenedVolume> {
  try {
    return await open(volume, host)
  } catch (cause) {
    const message = `the mount source ${volume.source} cannot be used: ${(cause as Error).message}`
    throw new SandboxError("invalid-argument", message, { cause })
  }
}

async function open(volume: Volume, host: VolumeHost): Promise<OpenedVolume> {
  const { type, source, tag, readOnly, locks, acl, dax, daxSizeMiB } = volume
  if (type === "disk") return openDisk(volume, host)
  if (type === "bind") {
    const window = dax ? { dax: { size: daxSizeMiB * MIB } } : {}
    const device = new FsDevice(source, { tag, readOnly, locks, acl, ...window })
    return { device, close: () => device.close() }
  }
  // Loaded when it is asked for: few sandboxes have such a device.
  const { VhostUserDevice } = await import("@ts-vmm/virtio-devices/vhost-user")
  const kind = type === "vhost-user-fs" ? "fs" : "blk"
  const device = await VhostUserDevice.connect({ kind, socketPath: source, tag })
  return { device, close: () => device.close() }
}

async function openDisk(volume: Volume, { limiter, onFailure }: VolumeHost): Promise<OpenedVolume> {
  const backend = await openBackend(volume)
  const device = new BlockDevice(backend, {
    serial: volume.tag,
    ...(limiter ? { rateLimit: limiter } : {}),
    onWriteError: reportWriteFailure(dirname(volume.source), onFailure),
  })
  return { device, close: () => backend.close() }
}

async function openBackend({ source, format, readOnly, direct }: Volume): Promise<BlockBackend> {
  if (format === "qcow2") return openQcow2Backend(source, { readOnly })
  return openFileBackend(source, { readOnly, direct })
}

/** What is to be told of a guest's refusal to mount one of the volumes, if it may be the volume's; undefined for other errors. */
export function fromVolumeError(volumes: readonly Volume[], error: unknown): SandboxError | undefined {
  if (!(error instanceof SandboxError)) return undefined
  const volume = volumes.find(({ mountPoint }) => error.message.includes(`${mountPoint}:`))
  const hint = volume && hintOf(volume)
  if (!hint) return undefined
  return new SandboxError("invalid-argument", `${hint} (${error.message})`, { cause: error })
}

function hintOf({ type, dax, source, fsType }: Volume): string | undefined {
  if (type === "disk")
    return `the disk ${source} cannot be mounted: it must be one ${fsType} file system, without partitions, that was unmounted before`
  return dax ? `${source} cannot be mounted with dax: the guest's kernel needs CONFIG_FUSE_DAX` : undefined
}
