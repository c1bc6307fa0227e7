import { statSync } from "node:fs"
import { basename, resolve } from "node:path"
import type { MessageInitShape } from "@bufbuild/protobuf"
import type { SpecSchema, StorageSchema } from "@ts-vmm/guest"
import { FsDevice } from "@ts-vmm/virtio-devices/fs"
import { SandboxError } from "../errors.js"

type Storage = MessageInitShape<typeof StorageSchema>

/**
 * What a {@link SandboxMount} is of.
 *
 * - `bind`: a folder or regular file of the host.
 * - `disk`: a file or block device of the host that holds one file system, without partitions.
 * - `vhost-user-fs`, `vhost-user-blk`: a file system, or such a disk, that another process serves (virtiofsd,
 *   qemu-storage-daemon). That process has all of the guest's memory.
 *
 * All but `bind` need the `kvm` hypervisor.
 */
export type MountType = "bind" | "disk" | "vhost-user-fs" | "vhost-user-blk"

/** A file system that the containers of a sandbox see. */
export interface SandboxMount {
  /** Default `bind`. */
  readonly type?: MountType
  /** Path on the host: what is shared, or the socket of the process that serves it. */
  readonly source: string
  /** Absolute path in the containers; made when it is missing. */
  readonly target: string
  /** The guest can change nothing; held by the host, but for vhost-user by the guest alone. Default false. */
  readonly readOnly?: boolean
  /**
   * Locks of fcntl(2) and flock(2) are the host's: its programs and other sandboxes see them. A program that waits for
   * one gets `EINTR` after 30 s. Default false: they are the sandbox's own.
   */
  readonly locks?: boolean
  /** Access lists (POSIX ACLs) of the host count and can be changed. Needs root on the host. Default false. */
  readonly acl?: boolean
  /** File system of a disk. Default `ext4`. */
  readonly fsType?: "ext4" | "erofs"
}

/** What containers share of the guest. */
export interface SharedPlace {
  /** Where it is in the guest. */
  readonly shared: string
  /** Where it is in the containers. */
  readonly target: string
  readonly readOnly: boolean
}

/** A {@link SandboxMount} that was checked, with its place in the guest. */
export interface Volume extends SandboxMount, SharedPlace {
  readonly type: MountType
  readonly readOnly: boolean
  readonly locks: boolean
  readonly acl: boolean
  readonly fsType: "ext4" | "erofs"
  /** What the guest mounts its device by, if that is a file system. */
  readonly tag: string
  /** Where the guest mounts it; the containers see that, or a file in it. */
  readonly mountPoint: string
}

const VOLUMES_DIR = "/run/tsvmm/volumes"
const TYPES: readonly string[] = ["bind", "disk", "vhost-user-fs", "vhost-user-blk"]
/** Each takes a device. */
const MAX_MOUNTS = 16

/** @throws SandboxError `invalid-argument`, naming the mount */
export function checkMounts(mounts: readonly SandboxMount[]): Volume[] {
  if (mounts.length > MAX_MOUNTS)
    throw invalid(`${mounts.length} mounts are too many (at most ${MAX_MOUNTS})`)
  const targets = new Set(mounts.map(({ target }) => target))
  if (targets.size < mounts.length) throw invalid("two mounts have the same target")
  return mounts.map(checkMount)
}

/** @param index of all mounts of the sandbox that there ever were @throws SandboxError `invalid-argument` */
export function checkMount(mount: SandboxMount, index: number): Volume {
  const { source, readOnly = false, locks = false, acl = false, type = "bind", fsType = "ext4" } = mount
  const target = checkTarget(mount.target)
  if (!TYPES.includes(type)) throw invalid(`unknown mount type "${type}": use ${TYPES.join(", ")}`)
  if (fsType !== "ext4" && fsType !== "erofs") throw invalid(`unknown fsType "${fsType}": use ext4 or erofs`)
  const isFile = checkSource(source, type)
  const mountPoint = `${VOLUMES_DIR}/${index}`
  return {
    ...{ type, source: resolve(source), target, readOnly, locks, acl, fsType },
    tag: `volume${index}`,
    mountPoint,
    shared: isFile ? `${mountPoint}/${basename(source)}` : mountPoint,
  }
}

/** @returns whether it is one file that is shared */
function checkSource(source: string, type: MountType): boolean {
  const stat = statSync(source, { throwIfNoEntry: false })
  if (!stat) throw invalid(`the mount source ${source} does not exist`)
  if (type === "bind" && !stat.isDirectory() && !stat.isFile())
    throw invalid(`the mount source ${source} is neither a folder nor a regular file`)
  if (type === "disk" && !stat.isFile() && !stat.isBlockDevice())
    throw invalid(`the mount source ${source} is neither a regular file nor a block device`)
  if (type.startsWith("vhost-user") && !stat.isSocket())
    throw invalid(`the mount source ${source} is not the socket of a vhost-user back end`)
  return type === "bind" && stat.isFile()
}

/** @returns the target without what says nothing @throws SandboxError `invalid-argument` */
export function checkTarget(target: string): string {
  if (!target.startsWith("/") || target.includes("\0"))
    throw invalid(`the mount target "${target}" is not an absolute path`)
  const parts = target.split("/").filter(part => part !== "" && part !== ".")
  if (parts.length === 0 || parts.includes("..")) throw invalid(`the mount target "${target}" cannot be used`)
  return `/${parts.join("/")}`
}

/** The devices that serve them. @throws SandboxError `invalid-argument` when a source cannot be opened */
export function volumeDevices(volumes: readonly Volume[]): FsDevice[] {
  const devices: FsDevice[] = []
  try {
    for (const { source, tag, readOnly, locks, acl } of volumes)
      devices.push(new FsDevice(source, { tag, readOnly, locks, acl }))
    return devices
  } catch (error) {
    for (const device of devices) device.close()
    throw new SandboxError("invalid-argument", `a mount cannot be shared: ${(error as Error).message}`)
  }
}

/** Mounted once a sandbox. */
export function volumeStorages(volumes: readonly Volume[]): Storage[] {
  return volumes.map(volume => volumeStorage(volume))
}

/** @param slot guest address of the device that holds a disk */
export function volumeStorage(volume: Volume, slot = 0): Storage {
  const { type, tag, mountPoint, readOnly, fsType } = volume
  const options = readOnly ? ["ro"] : []
  if (type === "disk" || type === "vhost-user-blk")
    return { driver: "blk", source: `slot:${slot.toString(16)}`, fstype: fsType, options, mountPoint }
  return { driver: "virtio-fs", source: tag, fstype: "virtiofs", options, mountPoint }
}

/** Bound into each container. */
export function volumeMounts(
  places: readonly SharedPlace[],
): NonNullable<MessageInitShape<typeof SpecSchema>["Mounts"]> {
  return places.map(({ shared, target, readOnly }) => ({
    destination: target,
    source: shared,
    type: "bind",
    options: ["rbind", "nosuid", "nodev", ...(readOnly ? ["ro"] : [])],
  }))
}

function invalid(message: string): SandboxError {
  return new SandboxError("invalid-argument", message)
}
