import { digestHex } from "../digest.js"
import { writeExt4 } from "../ext4/write.js"
import type { StoreContext } from "./context.js"
import { existingRecord } from "./resolve.js"
import { StoredImage } from "./stored-image.js"
import { withLease } from "./with-lease.js"
import { replaceFile } from "./write-target.js"

/** How an image becomes an ext4 disk. */
export interface Ext4Options {
  /** Bytes of the disk, rounded down to blocks of 4096. Default: what the files need, and at least 1 GiB. */
  readonly size?: number
  readonly signal?: AbortSignal
}

/** What `ImageStore.exportExt4` made. */
export interface Ext4Disk {
  /** Bytes; what is free takes no space on the host. */
  readonly size: number
}

/** Writes an image's files as one ext4 file system; none of its parts goes meanwhile. @see ImageStore.exportExt4 */
export async function exportExt4(
  context: StoreContext,
  reference: string,
  target: string,
  { size, signal }: Ext4Options,
): Promise<Ext4Disk> {
  return withLease(
    context,
    async () => {
      const record = await existingRecord(context, reference)
      const disk = new StoredImage(context.folder, record).disk()
      const uuid = Buffer.from(digestHex(record.digest).slice(0, 32), "hex")
      return { size: await replaceFile(target, file => writeExt4(file, { disk, uuid, size, signal })) }
    },
    signal,
  )
}
