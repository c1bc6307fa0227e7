import { statSync } from "node:fs"
import { basename, resolve } from "node:path"
import type { MessageInitShape } from "@bufbuild/protobuf"
import type { SpecSchema, StorageSchema } from "@ts-vmm/guest"
import { SandboxError } from "../errors.js"

type Storage = MessageInitShape<typeof StorageSchema>

/**
 * What a {@link SandboxMount} is of.
 *
 * - `bind`: a folder or regular file of the host.
 * - `disk`: an image or block device of the host that holds one file system, without partitions; a symbolic link to
 *   one is followed, as of a logical volume. It is locked: one sandbox may write to it, or several read.
 * - `vhost-user-fs`, `vhost-user-blk`: a file system, or such a disk, that another process serves (virtiofsd,
 *   qemu-storage-daemon). That process has all of the guest's memory.
 *
 * The last two need the `kvm` hypervisor.
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
  /**
   * Programs have the files of a `bind` mapped that the host has in its page cache (DAX), without a copy in the guest's
   * RAM; sandboxes that share a folder share those pages. For folders in which nobody shrinks files that are in use: a
   * program that uses what is gone, or writes to a hole when the host's file system is full, stands still or ends its
   * sandbox. Needs the `kvm` hypervisor, and to be there from the start. Default false.
   */
  readonly dax?: boolean
  /**
   * How much of them may be mapped at a time, in MiB: a power of two from 2 to 4096. It takes 1/64 of that of the guest's
   * RAM; the guest gives up what it did not use lately. Default 256.
   */
  readonly daxSizeMiB?: number
  /** File system of a disk; `erofs` is only read. Default `ext4`. */
  readonly fsType?: "ext4" | "erofs"
  /**
   * Of a `disk`, and never guessed from what it holds, which a guest may have written: a raw disk is raw whatever it looks
   * like. A qcow2 image that stands on another file is refused. Default `raw`.
   */
  readonly format?: "raw" | "qcow2"
  /** A raw `disk` past the host's page cache (`O_DIRECT`). Default false. */
  readonly direct?: boolean
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
export interface Volume extends Required<SandboxMount>, SharedPlace {
  /** What the guest finds its device by: tag of a file system, serial of a disk. */
  readonly tag: string
  /** Where the guest mounts it; the containers see that, or a file in it. */
  readonly mountPoint: string
}

/** False for what another process serves. */
export function isServedHere({ type }: Volume): boolean {
  return type === "bind" || type === "disk"
}

const VOLUMES_DIR = "/run/tsvmm/volumes"
const TYPES: readonly string[] = ["bind", "disk", "vhost-user-fs", "vhost-user-blk"]
/** Each takes a device. */
const MAX_MOUNTS = 16
/** Enough for what a program works on, and not much of a small guest's RAM: 4 MiB. */
const DEFAULT_DAX_SIZE_MIB = 256
const MAX_DAX_SIZE_MIB = 4096

/** @throws SandboxError `invalid-argument`, naming the mount */
export function checkMounts(mounts: readonly SandboxMount[]): Volume[] {
  if (mounts.length > MAX_MOUNTS)
    throw invalid(`${mounts.length} mounts are too many (at most ${MAX_MOUNTS})`)
  const volumes = mounts.map(checkMount)
  const targets = new Set(volumes.map(({ target }) => target))
  if (targets.size < mounts.length) throw invalid("two mounts have the same target")
  return volumes
}

/** @param index of all mounts of the sandbox that there ever were @throws SandboxError `invalid-argument` */
export function checkMount(mount: SandboxMount, index: number): Volume {
  const { source, locks = false, acl = false, type = "bind", fsType = "ext4" } = mount
  const { format = "raw", direct = false, dax = false, daxSizeMiB = DEFAULT_DAX_SIZE_MIB } = mount
  const target = checkTarget(mount.target)
  if (!TYPES.includes(type)) throw invalid(`unknown mount type "${type}": use ${TYPES.join(", ")}`)
  if (fsType !== "ext4" && fsType !== "erofs") throw invalid(`unknown fsType "${fsType}": use ext4 or erofs`)
  if (format !== "raw" && format !== "qcow2")
    throw invalid(`unknown format "${format}" of the disk ${source}: use raw or qcow2`)
  if (direct && format !== "raw") throw invalid(`the disk ${source}: direct is for raw disks`)
  if (dax) checkDax(source, type, daxSizeMiB)
  const isFile = checkSource(source, type, format)
  const readOnly = mount.readOnly === true || fsType === "erofs"
  const mountPoint = `${VOLUMES_DIR}/${index}`
  return {
    ...{
      type,
      source: resolve(source),
      target,
      readOnly,
      locks,
      acl,
      dax,
      daxSizeMiB,
      fsType,
      format,
      direct,
    },
    tag: `volume${index}`,
    mountPoint,
    shared: isFile ? `${mountPoint}/${basename(source)}` : mountPoint,
  }
}

function checkDax(source: string, type: MountType, sizeMiB: number): void {
  if (type !== "bind") throw invalid(`the mount ${source}: dax is for folders and files of the host`)
  if (!Number.isInteger(Math.log2(sizeMiB)) || sizeMiB < 2 || sizeMiB > MAX_DAX_SIZE_MIB)
    throw invalid(`the mount ${source}: daxSizeMiB must be a power of two from 2 to ${MAX_DAX_SIZE_MIB}`)
}

/** @returns whether it is one file that is shared */
function checkSource(source: string, type: MountType, format: "raw" | "qcow2"): boolean {
  const stat = statSync(source, { throwIfNoEntry: false })
  if (!stat) throw invalid(`the mount source ${source} does not exist`)
  if (type === "bind" && !stat.isDirectory() && !stat.isFile())
    throw invalid(`the mount source ${source} is neither a folder nor a regular file`)
  if (type === "disk" && !stat.isFile() && !(format === "raw" && stat.isBlockDevice()))
    throw invalid(`the mount source ${source} is neither a disk image nor a block device`)
  if (type.startsWith("vhost-user") && !stat.isSocket())
    throw invalid(`the mount source ${source} is not the socket of a vhost-user back end`)
  return type === "bind" && stat.isFile()
}

/** @returns the target without what says nothing @throws SandboxError `invalid-argument` */
function checkTarget(target: string): string {
  if (!target.startsWith("/") || target.includes("\0"))
    throw invalid(`the mount target "${target}" is not an absolute path`)
  const parts = target.split("/").filter(part => part !== "" && part !== ".")
  if (parts.length === 0 || parts.includes("..")) throw invalid(`the mount target "${target}" cannot be used`)
  return `/${parts.join("/")}`
}

/**
 * - `discard`: the host's file shrinks as files are removed.
 * - `errors=remount-ro`: a file system that the host could not write is not written on.
 */
const WRITTEN_EXT4 = ["noatime", "discard", "errors=remount-ro"]

/** Mounted once a sandbox. */
export function volumeStorages(volumes: readonly Volume[]): Storage[] {
  return volumes.map(volume => volumeStorage(volume))
}

/** @param slot guest address of the device, which a disk that another process serves is found by */
export function volumeStorage(volume: Volume, slot = 0): Storage {
  const { type, tag, mountPoint, readOnly, dax, fsType } = volume
  if (type === "bind" || type === "vhost-user-fs")
    return {
      driver: "virtio-fs",
      source: tag,
      fstype: "virtiofs",
      options: [...(readOnly ? ["ro"] : []), ...(dax ? ["dax=always"] : [])],
      mountPoint,
    }
  const source = type === "disk" ? `serial:${tag}` : `slot:${slot.toString(16)}`
  const options = ["nosuid", "nodev", ...(readOnly ? ["ro"] : WRITTEN_EXT4)]
  return { driver: "blk", source, fstype: fsType, options, mountPoint }
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
