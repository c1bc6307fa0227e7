import { constants, fstatSync, openSync } from "node:fs"
import { closeFd, lockFile } from "@ts-vmm/native"
import type { BlockAccess, BlockBackend, EraseKind, ExtentList } from "../backend.js"
import { BlockError } from "../errors.js"
import { ClusterMap } from "./cluster-map.js"
import { ClusterReader, type Qcow2Image } from "./cluster-reader.js"
import { ClusterWriter } from "./cluster-writer.js"
import { HEADER } from "./defs.js"
import { type BackingFile, type Qcow2Header, readHeader } from "./header.js"
import { ImageFile } from "./image-file.js"
import { InflatedClusters } from "./inflated-clusters.js"
import { Refcounts } from "./refcounts.js"

/** How {@link openQcow2Backend} opens. */
export interface Qcow2BackendOptions {
  /** Open for reading only; default false. */
  readonly readOnly?: boolean
  /** As for {@link openFileBackend}; default true. */
  readonly lock?: boolean
  /**
   * Opens the file that an image stands on, for reading. Its name is what the image says, which may be anything: nothing
   * is opened by that name but by this function. Without it such images are refused.
   */
  readonly openBacking?: (file: BackingFile) => BlockBackend | Promise<BlockBackend>
  /** Folder for a nameless file of what was unpacked of compressed clusters; default the system's for such files. */
  readonly scratchFolder?: string
}

/**
 * A disk image in the qcow2 format, versions 2 and 3: sparse, compressed, or the difference to another image. Reads and
 * writes of clusters that the image has are as direct as those of a raw image.
 *
 * A flush makes data durable before what refers to it, so that a crash at any time leaves an image in order: at worst
 * some room in it is lost, which `qemu-img check -r leaks` finds. Snapshots inside of an image make it read-only.
 * Discards and zeroes give clusters back to the host. Not supported, and refused: encryption, external data files,
 * subclusters.
 *
 * @throws BlockError `open`, `not-a-disk`, `locked`, `format`, `unsupported`, `backing`
 * @see "The QCOW2 Image Format", docs/interop/qcow2.txt of QEMU
 *
 * @example
 * ```ts
 * const disk = new BlockDevice(await openQcow2Backend("disk.qcow2"), { serial: "root" })
 * ```
 */
export async function openQcow2Backend(
  path: string,
  options: Qcow2BackendOptions = {},
): Promise<BlockBackend> {
  const { readOnly = false, lock = true } = options
  const fd = openImage(path, readOnly)
  try {
    if (!fstatSync(fd).isFile()) throw new BlockError("not-a-disk", `${path} is not a regular file`)
    if (lock && !lockFile(fd, readOnly ? "shared" : "exclusive"))
      throw new BlockError("locked", `disk image ${path} is in use by somebody else`)
    return await openDisk(new ImageFile(fd, path), readOnly, options)
  } catch (error) {
    closeFd(fd)
    throw error
  }
}

function openImage(path: string, readOnly: boolean): number {
  try {
    // O_NONBLOCK: a path that turns out to be a FIFO must not hold up the process.
    return openSync(path, (readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK)
  } catch (cause) {
    const why = (cause as Error).message
    throw new BlockError("open", `disk image ${path} cannot be opened: ${why}`, { cause })
  }
}

/** Opens what is open already; `file`'s fd then goes with the backend. */
export async function openDisk(
  file: ImageFile,
  readOnly: boolean,
  options: Qcow2BackendOptions,
): Promise<BlockBackend> {
  const { size: fileSize } = fstatSync(file.fd)
  const header = await readHeader(file, fileSize)
  if (!readOnly) checkWritable(file.name, header)
  const map = await ClusterMap.read(file, header)
  const refcounts = readOnly ? undefined : await Refcounts.read(file, header, fileSize)
  const backing = header.backing && (await openBacking(file.name, header.backing, options))
  const inflated = new InflatedClusters(file, header, options.scratchFolder)
  const disk = new Qcow2Backend({ file, header, map, inflated, backing }, refcounts)
  if (header.hasAutoclear && !readOnly) await clearAutoclear(file)
  return disk
}

function checkWritable(name: string, { snapshots, isDirty, isCorrupt }: Qcow2Header): void {
  if (snapshots > 0)
    throw new BlockError("unsupported", `${name} has snapshots: it can be opened for reading only`)
  if (isDirty || isCorrupt)
    throw new BlockError("format", `${name} was not closed in order: qemu-img check -r all repairs it`)
}

async function openBacking(
  name: string,
  file: BackingFile,
  { openBacking: open }: Qcow2BackendOptions,
): Promise<BlockBackend> {
  if (open) return cached(await open(file), name)
  throw new BlockError(
    "backing",
    `${name} stands on another file, which was not allowed: ${JSON.stringify(file.name)}`,
  )
}

/** Pieces of a backing file are copied, in buffers that are not aligned. */
function cached(backing: BlockBackend, name: string): BlockBackend {
  if (!backing.direct) return backing
  backing.close()
  throw new BlockError("backing", `${name}: its backing file has to be opened without direct`)
}

/** What a writer does not know is not kept up to date by it, and says so by these bits. */
async function clearAutoclear(file: ImageFile): Promise<void> {
  await file.write({ offset: HEADER.autoclearFeatures, bytes: Buffer.alloc(8) })
  await file.sync()
}

class Qcow2Backend implements BlockBackend {
  readonly size: number
  readonly readOnly: boolean
  readonly inMemory = false
  readonly discard: boolean
  readonly discardAlignment: number
  readonly flushFds: readonly number[] = []
  readonly #image: Qcow2Image
  readonly #reader: ClusterReader
  readonly #writer: ClusterWriter | undefined
  /** Whoever changes tables, or waits for some, does it alone. */
  #turn: Promise<unknown> = Promise.resolve()
  /** Turns that have not ended. */
  #waiting = 0
  #closed = false

  constructor(image: Qcow2Image, refcounts: Refcounts | undefined) {
    this.#image = image
    this.size = image.header.size
    this.readOnly = refcounts === undefined
    this.discard = !this.readOnly
    this.discardAlignment = image.header.clusterSize
    this.#reader = new ClusterReader(image)
    this.#writer = refcounts && new ClusterWriter(image, this.#reader, refcounts)
  }

  locate(offset: number, length: number, into: ExtentList): void {
    this.#reader.locate(offset, length, into)
  }

  prepare(offset: number, length: number, access: BlockAccess): Promise<void> | undefined {
    const side = access === "write" ? this.#writer! : this.#reader
    if (side.isReady(offset, length)) return undefined
    return this.#inTurn(() => side.makeReady(offset, length))
  }

  async flush(): Promise<void> {
    await this.#inTurn(async () => this.#writer?.flush())
  }

  erase(offset: number, length: number, kind: EraseKind): Promise<void> {
    return this.#inTurn(() => this.#writer!.erase(offset, length, kind))
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    // An fd is not closed under an operation: its number may be another file's by then.
    if (this.#waiting === 0) this.#end()
    else this.#turn.then(() => this.#end())
  }

  #end(): void {
    const { file, inflated, backing } = this.#image
    try {
      this.#writer?.flushNow()
    } finally {
      inflated.close()
      backing?.close()
      closeFd(file.fd)
    }
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed) throw new BlockError("open", `${this.#image.file.name} is closed`)
    const done = this.#turn.then(work)
    this.#waiting++
    this.#turn = done.then(nothing, nothing).finally(() => this.#waiting--)
    return done
  }
}

const nothing = () => undefined
