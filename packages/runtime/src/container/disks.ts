import { statSync } from "node:fs"
import { dirname, resolve } from "node:path"
import type { MessageInitShape } from "@bufbuild/protobuf"
import type { StorageSchema } from "@ts-vmm/guest"
import type { RateLimiter } from "@ts-vmm/virtio-devices"
import {
  type BlockBackend,
  BlockDevice,
  openFileBackend,
  openQcow2Backend,
} from "@ts-vmm/virtio-devices/block"
import { SandboxError } from "../errors.js"
import { reportWriteFailure } from "../storage/write-failure.js"
import { checkTarget, type SharedPlace } from "./volumes.js"

/** A disk of the host with one ext4 file system, without partitions, that the containers of a sandbox see. */
export interface SandboxDisk {
  /** Path on the host: an image, or a block device. It is locked: one sandbox may write to it, or several read. */
  readonly source: string
  /** Absolute path in the containers, where its file system is; made when it is missing. */
  readonly target: string
  /**
   * Never guessed from what it holds, which a guest may have written: a raw disk is raw whatever it looks like. A qcow2
   * image that stands on another file is refused. Default `raw`.
   */
  readonly format?: "raw" | "qcow2"
  /** The guest can change nothing; held by the host. Default false. */
  readonly readOnly?: boolean
  /** Past the host's page cache (`O_DIRECT`); for `raw` only. Default false. */
  readonly direct?: boolean
}

/** A {@link SandboxDisk} that was checked, with its place in the guest. */
export interface Disk extends Required<SandboxDisk>, SharedPlace {
  /** What the guest finds it by. */
  readonly serial: string
}

/** What {@link openDisks} opened. */
export interface OpenedDisk {
  readonly device: BlockDevice
  close(): void
}

const DISKS_DIR = "/run/tsvmm/disks"
/** Each takes a device. */
const MAX_DISKS = 8

/**
 * @param taken - places in the containers that something else has
 * @throws SandboxError `invalid-argument`, naming the disk
 */
export function checkDisks(disks: readonly SandboxDisk[], taken: readonly SharedPlace[]): Disk[] {
  if (disks.length > MAX_DISKS) throw invalid(`${disks.length} disks are too many (at most ${MAX_DISKS})`)
  const checked = disks.map(checkDisk)
  const targets = [...taken, ...checked].map(({ target }) => target)
  if (new Set(targets).size < targets.length) throw invalid("a disk has the target of another, or of a mount")
  return checked
}

function checkDisk(disk: SandboxDisk, index: number): Disk {
  const { source, target, format = "raw", readOnly = false, direct = false } = disk
  if (format !== "raw" && format !== "qcow2")
    throw invalid(`unknown format "${format}" of the disk ${source}: use raw or qcow2`)
  if (direct && format !== "raw") throw invalid(`the disk ${source}: direct is for raw disks`)
  const stat = statSync(source, { throwIfNoEntry: false })
  if (!stat) throw invalid(`the disk ${source} does not exist`)
  if (!stat.isFile() && !(format === "raw" && stat.isBlockDevice()))
    throw invalid(`the disk ${source} is neither a disk image nor a block device`)
  return {
    ...{ source: resolve(source), target: checkTarget(target), format, readOnly, direct },
    serial: `tsvmm-disk${index}`,
    shared: `${DISKS_DIR}/${index}`,
  }
}

/**
 * Opens them, and locks them until they are closed.
 *
 * @param onFailure - told once a disk when the host could not write what the guest wrote
 * @throws SandboxError `invalid-argument` for one that cannot be opened, or that somebody else has
 */
export async function openDisks(
  disks: readonly Disk[],
  onFailure: (error: SandboxError) => void,
  limiter: RateLimiter | undefined,
): Promise<OpenedDisk[]> {
  const opened: OpenedDisk[] = []
  try {
    for (const disk of disks) {
      const backend = await openBackend(disk)
      const device = new BlockDevice(backend, {
        serial: disk.serial,
        ...(limiter ? { rateLimit: limiter } : {}),
        onWriteError: reportWriteFailure(dirname(disk.source), onFailure),
      })
      opened.push({ device, close: () => backend.close() })
    }
    return opened
  } catch (error) {
    for (const disk of opened) disk.close()
    throw error
  }
}

async function openBackend({ source, format, readOnly, direct }: Disk): Promise<BlockBackend> {
  try {
    return format === "qcow2"
      ? await openQcow2Backend(source, { readOnly })
      : openFileBackend(source, { readOnly, direct })
  } catch (cause) {
    throw new SandboxError("invalid-argument", `a disk cannot be used: ${(cause as Error).message}`, {
      cause,
    })
  }
}

/**
 * - `discard`: the host's file shrinks as files are removed.
 * - `errors=remount-ro`: a file system that the host could not write is not written on.
 */
const WRITTEN_OPTIONS = ["nosuid", "nodev", "noatime", "discard", "errors=remount-ro"]

/** Mounted once a sandbox. */
export function diskStorages(disks: readonly Disk[]): MessageInitShape<typeof StorageSchema>[] {
  return disks.map(({ serial, shared, readOnly }) => ({
    driver: "blk",
    source: `serial:${serial}`,
    fstype: "ext4",
    options: readOnly ? ["ro", "nosuid", "nodev"] : [...WRITTEN_OPTIONS],
    mountPoint: shared,
  }))
}

/** What is to be told of a guest's refusal to mount one of the disks; undefined for other errors. */
export function fromDiskError(disks: readonly Disk[], error: unknown): SandboxError | undefined {
  if (!(error instanceof SandboxError)) return undefined
  const disk = disks.find(({ shared }) => error.message.includes(`${shared}:`))
  if (!disk) return undefined
  const hint = "it must be one ext4 file system, without partitions, that was unmounted before"
  const message = `the disk ${disk.source} cannot be mounted: ${hint} (${error.message})`
  return new SandboxError("invalid-argument", message, { cause: error })
}

function invalid(message: string): SandboxError {
  return new SandboxError("invalid-argument", message)
}
