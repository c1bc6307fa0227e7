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
  readonly readOnly: boolean
  /** What the guest mounts its device by. */
  readonly tag: string
  /** Where the guest mounts it; the containers see that, or a file in it. */
  readonly mountPoint: string
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

function checkMount({ source, target, readOnly = false }: SandboxMount, index: number): Volume {
  const stat = statSync(source, { throwIfNoEntry: false })
  if (!stat) throw invalid(`the mount source ${source} does not exist`)
  if (!stat.isDirectory() && !stat.isFile())
    throw invalid(`the mount source ${source} is neither a folder nor a regular file`)
  const mountPoint = `${VOLUMES_DIR}/${index}`
  return {
    source: resolve(source),
    target: checkTarget(target),
    readOnly,
    tag: `volume${index}`,
    mountPoint,
    shared: stat.isDirectory() ? mountPoint : `${mountPoint}/${basename(source)}`,
  }
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
    for (const { source, tag, readOnly } of volumes) devices.push(new FsDevice(source, { tag, readOnly }))
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
