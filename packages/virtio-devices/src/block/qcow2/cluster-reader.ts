import { type BlockBackend, type ExtentList, ZERO_EXTENT } from "../backend.js"
import type { ClusterMap } from "./cluster-map.js"
import type { Qcow2Header } from "./header.js"
import type { ImageFile } from "./image-file.js"
import type { InflatedClusters } from "./inflated-clusters.js"

/** An open image. */
export interface Qcow2Image {
  readonly file: ImageFile
  readonly header: Qcow2Header
  readonly map: ClusterMap
  readonly inflated: InflatedClusters
  /** Has what the image does not. */
  readonly backing: BlockBackend | undefined
}

/** A piece of a disk that lies in one cluster. */
export interface ClusterPiece {
  readonly cluster: number
  /** Position on the disk, bytes. */
  readonly offset: number
  readonly length: number
}

/** Cuts a range of the disk at the ends of clusters. */
export function* clusterPieces(offset: number, length: number, clusterSize: number): Generator<ClusterPiece> {
  for (let at = offset; at < offset + length; ) {
    const cluster = Math.floor(at / clusterSize)
    const end = Math.min(offset + length, (cluster + 1) * clusterSize)
    yield { cluster, offset: at, length: end - at }
    at = end
  }
}

/** Finds what the disk holds: in the image, unpacked, in the backing file, or nowhere. */
export class ClusterReader {
  readonly #image: Qcow2Image

  constructor(image: Qcow2Image) {
    this.#image = image
  }

  locate(offset: number, length: number, into: ExtentList): void {
    const { file, header, map, inflated } = this.#image
    for (const piece of clusterPieces(offset, length, header.clusterSize)) {
      const table = map.now(piece.cluster)
      const index = piece.cluster % map.perTable
      const within = piece.offset % header.clusterSize
      const kind = table?.kind(index) ?? "none"
      if (kind === "data") into.add(file.fd, table!.hostOffset(index) + within, piece.length)
      else if (kind === "compressed") into.add(inflated.fd, piece.offset, piece.length)
      else if (kind === "zero") into.add(ZERO_EXTENT, 0, piece.length)
      else this.#locateBelow(piece, into)
    }
  }

  /** The range can be located as it is. */
  isReady(offset: number, length: number): boolean {
    const { header, map, inflated, backing } = this.#image
    for (const { cluster } of clusterPieces(offset, length, header.clusterSize)) {
      const table = map.cached(cluster)
      if (table === "unread") return false
      const kind = table?.kind(cluster % map.perTable) ?? "none"
      if (kind === "compressed" && !inflated.has(cluster)) return false
      if (kind === "none" && backing?.prepare) return false
    }
    return true
  }

  /** @throws BlockError `format`; whatever the backing file throws */
  async makeReady(offset: number, length: number): Promise<void> {
    const { header, map, inflated, backing } = this.#image
    for (const piece of clusterPieces(offset, length, header.clusterSize)) {
      const table = await map.table(piece.cluster)
      const index = piece.cluster % map.perTable
      const kind = table?.kind(index) ?? "none"
      if (kind === "compressed")
        await inflated.add(piece.cluster, table!.compressed(index, header.clusterBits))
      if (kind === "none") await backing?.prepare?.(piece.offset, this.#lengthBelow(piece), "read")
    }
  }

  #locateBelow(piece: ClusterPiece, into: ExtentList): void {
    const below = this.#lengthBelow(piece)
    if (below > 0) this.#image.backing!.locate(piece.offset, below, into)
    if (below < piece.length) into.add(ZERO_EXTENT, 0, piece.length - below)
  }

  /** The backing file may be shorter than the disk. */
  #lengthBelow({ offset, length }: ClusterPiece): number {
    return Math.max(0, Math.min(length, (this.#image.backing?.size ?? 0) - offset))
  }
}
