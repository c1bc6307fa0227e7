import { constants, openSync } from "node:fs"
import { tmpdir } from "node:os"
import { promisify } from "node:util"
import { inflateRaw, constants as zlib } from "node:zlib"
import { closeFd } from "@ts-vmm/native"
import { BlockError } from "../errors.js"
import type { Qcow2Header } from "./header.js"
import { ImageFile } from "./image-file.js"
import { unpackZstd } from "./zstd-cluster.js"

const inflate = promisify(inflateRaw)

/**
 * Compressed clusters, unpacked into a sparse file without a name, each where it is on the disk: once there a cluster
 * stays, so that native I/O can read it at any time.
 */
export class InflatedClusters {
  readonly #image: ImageFile
  readonly #header: Qcow2Header
  readonly #folder: string
  readonly #done = new Set<number>()
  #scratch: ImageFile | undefined

  constructor(image: ImageFile, header: Qcow2Header, folder = tmpdir()) {
    this.#image = image
    this.#header = header
    this.#folder = folder
  }

  has(cluster: number): boolean {
    return this.#done.has(cluster)
  }

  /** Of the file that has them; only when {@link InflatedClusters.has} says so. */
  get fd(): number {
    return this.#scratch!.fd
  }

  /**
   * Unpacks one.
   *
   * @param packed where it lies in the image, and in how many bytes it ends at most
   * @throws BlockError `format`, `open`
   */
  async add(cluster: number, packed: { readonly offset: number; readonly length: number }): Promise<void> {
    if (this.has(cluster)) return
    const { clusterSize } = this.#header
    const bytes = await this.#unpack(await this.#readPacked(packed))
    if (bytes.length < clusterSize) throw this.#damaged(cluster)
    this.#scratch ??= new ImageFile(openNameless(this.#folder), "unpacked clusters")
    await this.#scratch.write({ offset: cluster * clusterSize, bytes })
    this.#done.add(cluster)
  }

  close(): void {
    if (this.#scratch) closeFd(this.#scratch.fd)
    this.#scratch = undefined
    this.#done.clear()
  }

  /** The length is rounded up to sectors, and the file may end within the last. */
  async #readPacked({ offset, length }: { offset: number; length: number }): Promise<Buffer> {
    for (let left = length; left > 0; left -= 512) {
      const bytes = await this.#image.read(offset, left).catch(error => {
        if (left > 512 || !(error instanceof BlockError)) return undefined
        throw error
      })
      if (bytes) return bytes
    }
    throw new BlockError("format", `${this.#image.name}: a compressed cluster of no bytes`)
  }

  async #unpack(packed: Buffer): Promise<Buffer> {
    try {
      if (this.#header.compression === "zstd") return await unpackZstd(packed, this.#header.clusterSize)
      // What follows the stream in its last sector is the next cluster's.
      return await inflate(packed, {
        maxOutputLength: this.#header.clusterSize,
        finishFlush: zlib.Z_SYNC_FLUSH,
      })
    } catch (cause) {
      throw new BlockError("format", `${this.#image.name}: a compressed cluster does not unpack`, { cause })
    }
  }

  #damaged(cluster: number): BlockError {
    return new BlockError("format", `${this.#image.name}: compressed cluster ${cluster} is too short`)
  }
}

/** `O_TMPFILE`, asm-generic/fcntl.h: Node has no name for it. */
const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY

/** Gone with its last fd, whatever becomes of the process. */
function openNameless(folder: string): number {
  try {
    return openSync(folder, O_TMPFILE | constants.O_RDWR, 0o600)
  } catch (cause) {
    const why = (cause as Error).message
    throw new BlockError("open", `there is no room for unpacked clusters in ${folder}: ${why}`, { cause })
  }
}
