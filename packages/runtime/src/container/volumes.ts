import { statSync } from "node:fs"
import { basename, resolve } from "node:path"
import type { MessageInitShape } from "@bufbuild/protobuf"
import type { SpecSchema, StorageSchema } from "@ts-vmm/guest"
import { FsDevice } from "@ts-vmm/virtio-devices/fs"
import { SandboxError } from "../errors.js"

/** A folder or file of the host that the containers of a sandbox see. */
export interface SandboxMount {
  /** Path on the host: a folder or a regular file. */
  readonly source: string
  /** Absolute path in the containers; made when it is missing. */
  readonly target: string
  /** The guest can change nothing; held by the host. Default false. */
  readonly readOnly?: boolean
  /**
   * Locks of fcntl(2) and flock(2) are the host's: its programs and other sandboxes see them. A program that waits for
   * one gets `EINTR` after 30 s. Default false: they are the sandbox's own.
   */
  readonly locks?: boolean
  /** Access lists (POSIX ACLs) of the host count and can be changed. Needs root on the host. Default false. */
  readonly acl?: boolean
}

/** A {@link SandboxMount} that was checked, with its place in the guest. */
export interface Volume extends SandboxMount {
  readonly readOnly: boolean
  readonly locks: boolean
  readonly acl: boolean
  /** What the guest mounts its device by. */
  readonly tag: string
  /** Where the guest mounts it, and what of it the containers see. */
  readonly mountPoint: string
  readonly shared: string
}

const VOLUMES_DIR = "/run/tsvmm/volumes"
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

function checkMount(
  { source, target, readOnly = false, locks = false, acl = false }: SandboxMount,
  index: number,
): Volume {
  if (!target.startsWith("/") || target.includes("\0"))
    throw invalid(`the mount target "${target}" is not an absolute path`)
  const parts = target.split("/").filter(part => part !== "" && part !== ".")
  if (parts.length === 0 || parts.includes("..")) throw invalid(`the mount target "${target}" cannot be used`)
  const stat = statSync(source, { throwIfNoEntry: false })
  if (!stat) throw invalid(`the mount source ${source} does not exist`)
  if (!stat.isDirectory() && !stat.isFile())
    throw invalid(`the mount source ${source} is neither a folder nor a regular file`)
  const mountPoint = `${VOLUMES_DIR}/${index}`
  return {
    source: resolve(source),
    target: `/${parts.join("/")}`,
    readOnly,
    locks,
    acl,
    tag: `volume${index}`,
    mountPoint,
    shared: stat.isDirectory() ? mountPoint : `${mountPoint}/${basename(source)}`,
  }
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
export function volumeStorages(volumes: readonly Volume[]): MessageInitShape<typeof StorageSchema>[] {
  return volumes.map(({ tag, mountPoint, readOnly }) => ({
    driver: "virtio-fs",
    source: tag,
    fstype: "virtiofs",
    options: readOnly ? ["ro"] : [],
    mountPoint,
  }))
}

/** Bound into each container. */
export function volumeMounts(
  volumes: readonly Volume[],
): NonNullable<MessageInitShape<typeof SpecSchema>["Mounts"]> {
  return volumes.map(({ shared, target, readOnly }) => ({
    destination: target,
    source: shared,
    type: "bind",
    options: ["rbind", "nosuid", "nodev", ...(readOnly ? ["ro"] : [])],
  }))
}

function invalid(message: string): SandboxError {
  return new SandboxError("invalid-argument", message)
}
